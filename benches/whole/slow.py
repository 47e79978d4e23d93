"""A registry that thinks before it answers."""
import http.client
import http.server
import threading
import time


class SlowRegistry:
    """Hands on to the registry at `upstream` what it is asked by GET and HEAD, `pause` seconds later."""

    def __init__(self, upstream, pause):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                time.sleep(pause)
                connection = http.client.HTTPConnection(upstream)
                accept = ", ".join(self.headers.get_all("Accept", ["*/*"]))
                connection.request(self.command, self.path, headers={"Accept": accept})
                answer = connection.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Type", "Docker-Content-Digest", "Content-Length"):
                    if answer.getheader(name):
                        self.send_header(name, answer.getheader(name))
                self.end_headers()
                self.wfile.write(body)
                connection.close()

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
