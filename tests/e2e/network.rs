//! The network of RUN: which it is, what can be reached from it, and what of its settings stays in no image.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::env::{Env, Run, as_every_user, has};

/// A server on the loopback of the machine that greets; its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"greetings\n");
            // Closed with something unread, the connection would be reset and the greeting lost.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    port
}

/// A RUN that knocks at addresses and never fails.
fn knock(addresses: &str, port: u16) -> String {
    format!(
        "RUN for a in {addresses}; do echo | timeout 3 nc -w 2 $a {port} 2>&1 | sed \"s/^/<$a> /\"; done; true\n"
    )
}

const GATEWAY: &str = "$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')";

/// Whether the build had a network of its own; says why not.
fn has_own_network(run: &Run) -> bool {
    let line = run.stderr.lines().find(|line| line.starts_with("network: "));
    let own = line.is_some_and(|line| line.contains("one of the build's own"));
    if !own {
        eprintln!("skipped: {}", line.unwrap_or("no network was needed"));
    }
    own
}

#[test]
fn default_does_not_reach_the_machine() {
    as_every_user(|env| {
        env.base();
        let port = server();
        let addresses = format!("127.0.0.1 {GATEWAY}");
        let text = format!(
            "FROM base\n{}RUN timeout 2 nc -w 1 169.254.169.254 80 2>&1; ls /sys/class/net | sed 's/^/device /'\n",
            knock(&addresses, port)
        );
        let run = env.build("default", &text, &[]).ok();
        if !has_own_network(&run) {
            return;
        }
        assert_eq!(run.count("greetings"), 0, "{}", run.stderr);
        assert!(
            run.stderr.contains("<127.0.0.1> nc: can't connect"),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains("(169.254.169.254): Network is unreachable"),
            "{}",
            run.stderr
        );
        assert_eq!(run.count("network: "), 1, "it is said once\n{}", run.stderr);
        assert!(run.count(" device ") >= 2, "{}", run.stderr);
    });
}

#[test]
fn host_and_none() {
    as_every_user(|env| {
        env.base();
        let port = server();
        let knock = knock("127.0.0.1", port);
        let host = env
            .build("host", &format!("FROM base\n{knock}"), &["--network", "host"])
            .ok();
        assert_eq!(host.count("<127.0.0.1> greetings"), 1, "{}", host.stderr);
        assert_eq!(host.count("network: "), 0, "no network was made\n{}", host.stderr);
        let none = format!("FROM base\n{knock}RUN ls /sys/class/net | sed 's/^/device /'\n");
        let none = env.build("none", &none, &["--network=none"]).ok();
        assert_eq!(none.count("greetings"), 0, "{}", none.stderr);
        assert_eq!(none.count(" device "), 1, "{}", none.stderr);
        assert_eq!(none.count(" device lo"), 1, "{}", none.stderr);
    });
}

#[test]
fn host_gateway_leads_to_the_machine() {
    as_every_user(|env| {
        env.base();
        let port = server();
        let text = format!(
            "FROM base\n{}",
            knock("$(sed -n 's/\\tmachine$//p' /etc/hosts)", port)
        );
        for mode in ["default", "host"] {
            let args = [
                "--no-cache",
                "--network",
                mode,
                "--add-host",
                "machine:host-gateway",
            ];
            let run = env.build("gateway", &text, &args).ok();
            // Pasta of Debian 12 may lose the end of a connection, and repeat its last bytes until nc is ended.
            assert!(run.stderr.contains("> greetings"), "{mode}\n{}", run.stderr);
        }
    });
}

#[test]
fn slirp4netns_is_the_second_choice() {
    if !has("slirp4netns") {
        return;
    }
    as_every_user(|env| {
        env.base();
        let port = server();
        // All programs but pasta.
        let programs = env.path("programs");
        std::fs::create_dir(&programs).unwrap();
        for name in ["slirp4netns", "newuidmap", "newgidmap", "setpriv"] {
            for directory in ["/usr/bin", "/bin", "/usr/local/bin"] {
                let program = Path::new(directory).join(name);
                if program.exists() {
                    let _ = symlink(&program, programs.join(name));
                }
            }
        }
        env.write(
            "slirp/Dockerfile",
            format!(
                "FROM base\n{}RUN timeout 2 nc -w 1 169.254.169.254 80 2>&1; cat /etc/resolv.conf\n",
                knock("127.0.0.1 10.0.2.2", port)
            ),
        );
        let context = env.path("slirp");
        let build = |more: &[&str]| -> Run {
            let args = ["build", "--progress=plain", "--no-cache"];
            let context = context.to_str().unwrap();
            let mut command =
                env.rbuild_command(args.into_iter().chain(more.iter().copied()).chain([context]));
            command.env("PATH", &programs).output().unwrap().into()
        };
        let run = build(&[]).ok();
        if !has_own_network(&run) {
            return;
        }
        assert!(run.stderr.contains("through slirp4netns"), "{}", run.stderr);
        assert_eq!(run.count("greetings"), 0, "{}", run.stderr);
        assert!(
            run.stderr.contains("(169.254.169.254): Network is unreachable"),
            "{}",
            run.stderr
        );
        let run = build(&["--add-host", "machine:host-gateway"]).ok();
        assert_eq!(run.count("<10.0.2.2> greetings"), 1, "{}", run.stderr);
    });
}

#[test]
fn without_a_program_the_reason_is_said() {
    as_every_user(|env| {
        env.base();
        let programs = env.path("programs");
        std::fs::create_dir(&programs).unwrap();
        for name in ["newuidmap", "newgidmap", "setpriv"] {
            symlink(Path::new("/usr/bin").join(name), programs.join(name)).unwrap();
        }
        env.write("bare/Dockerfile", "FROM base\nRUN true\nRUN :\n");
        let context = env.path("bare");
        let mut command = env.rbuild_command(["build", "--progress=plain", context.to_str().unwrap()]);
        let run: Run = command.env("PATH", &programs).output().unwrap().into();
        let said = "network: the machine's, for neither pasta (package passt) nor slirp4netns is installed";
        assert_eq!(run.ok().count(said), 1);
    });
}

#[test]
fn resolver_and_hosts_are_as_told() {
    as_every_user(|env| {
        env.base();
        let args = "--dns 10.1.1.1 --dns=fd00::53 --dns-search corp.example --dns-option ndots:2 --add-host db:10.0.0.7,six=[fd00::6]";
        let args: Vec<&str> = args.split(' ').collect();
        let text = "FROM base\nRUN cat /etc/resolv.conf /etc/hosts\n";
        let run = env.build("told", text, &args).ok();
        for line in [
            "nameserver 10.1.1.1",
            "nameserver fd00::53",
            "search corp.example",
            "options ndots:2",
            "10.0.0.7\tdb",
            "fd00::6\tsix",
        ] {
            assert_eq!(run.count(&format!(" {line}\n")), 1, "{line}\n{}", run.stderr);
        }
        // Where names are looked up is no part of what a step does.
        let other = env.build(
            "told",
            text,
            &[
                "--dns",
                "10.2.2.2",
                "--add-host",
                "db:10.9.9.9",
                "--add-host",
                "six:::9",
            ],
        );
        assert_eq!(other.ok().count("CACHED"), 1);
        for (bad, why) in [
            (["--dns", "none"], "invalid IP address syntax"),
            (["--add-host", "db:nowhere"], "invalid IP address in add-host"),
            (["--dns-search", "a b"], "one word"),
        ] {
            let run = env.build("told", text, &bad);
            assert!(
                run.code != Some(0) && run.stderr.contains(why),
                "{bad:?}\n{}",
                run.stderr
            );
        }
    });
}

#[test]
fn a9_proxies_reach_steps_and_nothing_else() {
    as_every_user(|env| {
        env.base();
        let text = "FROM base\nRUN echo \"<$HTTP_PROXY|$https_proxy|$no_proxy>\"\n";
        let proxied = "{\"proxies\":{\"default\":{\"httpProxy\":\"http://u:canary@127.0.0.1:3128\",\"noProxy\":\"*.example\"}}}";
        env.write(".docker/config.json", proxied);
        let run = env
            .build("proxied", text, &["--build-arg", "HTTPS_PROXY=http://mine:1"])
            .ok();
        assert_eq!(
            run.count("<http://u:canary@127.0.0.1:3128|http://mine:1|*.example>"),
            1,
            "{}",
            run.stderr
        );
        if has_own_network(&run) {
            assert_eq!(
                run.count("HTTP_PROXY names a proxy on this machine's loopback"),
                1,
                "{}",
                run.stderr
            );
        }
        let image = env.inspect("proxied");
        assert!(!image.to_string().contains("canary"), "{image}");
        let plain = env.build("plain", text, &["--http-proxy=false"]).ok();
        assert_eq!(plain.count("CACHED"), 1, "{}", plain.stderr);
        let none = env
            .build("none", text, &["--no-cache", "--http-proxy=false"])
            .ok();
        assert_eq!(none.count("<||>"), 1, "{}", none.stderr);
        let context = env.path("none");
        let mut own = env.rbuild_command([
            "build",
            "--progress=plain",
            "--no-cache",
            "--http-proxy",
            context.to_str().unwrap(),
        ]);
        let own: Run = own.env("http_proxy", "http://own:2").output().unwrap().into();
        assert_eq!(own.ok().count("<http://own:2||>"), 1);
    });
}

#[test]
fn a_failure_of_the_network_is_explained() {
    as_every_user(|env| {
        env.base();
        let port = server();
        let none = "FROM base\nRUN nc -w 1 10.0.0.1 80 </dev/null\n";
        let none = env.build("failed", none, &["--network=none"]).fails(1);
        assert_eq!(
            none.count("this step has no network (--network=none)"),
            1,
            "{}",
            none.stderr
        );
        let run = env.build(
            "failed",
            &format!("FROM base\nRUN nc -w 1 127.0.0.1 {port} </dev/null\n"),
            &[],
        );
        if has_own_network(&run) {
            assert_eq!(
                run.fails(1)
                    .count("or --add-host NAME:host-gateway for the loopback"),
                1
            );
        }
        let run = env.build(
            "failed",
            "FROM base\nRUN echo could not resolve >&2; exit 3\n",
            &["--dns=10.1.2.3"],
        );
        assert_eq!(run.fails(1).count("names are looked up at --dns 10.1.2.3"), 1);
        let plain = env
            .build("failed", "FROM base\nRUN exit 3\n", &["--network=none"])
            .fails(1);
        assert_eq!(plain.count("no network"), 0, "{}", plain.stderr);
    });
}

/// A throw-away authority and a server's certificate below `directory`; `None`, with a note, without openssl.
fn authority(directory: &Path) -> Option<()> {
    if !has("openssl") {
        return None;
    }
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj '/CN=rbuild canary' -days 2 && \
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost && \
        printf 'subjectAltName=IP:127.0.0.1' > ext && \
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile ext";
    let made = Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(())
}

/// Copies a program of the machine and the libraries that it needs into a context.
fn with_libraries(env: &Env, context: &str, program: &str) {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let copy = env.write(&format!("{context}/root{file}"), std::fs::read(file).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(copy, mode).unwrap();
    }
}

#[test]
fn given_certificates_are_trusted_and_leave_nothing() {
    as_every_user(|env| {
        env.base();
        let keys = tempfile::tempdir().unwrap();
        let Some(()) = authority(keys.path()) else {
            return;
        };
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut tls = Command::new("openssl")
            .args([
                "s_server",
                "-accept",
                &format!("127.0.0.1:{port}"),
                "-www",
                "-quiet",
            ])
            .args(["-cert", "server.pem", "-key", "server.key"])
            .current_dir(keys.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        let bundle = env.write("bundle.pem", std::fs::read(keys.path().join("ca.pem")).unwrap());
        with_libraries(env, "trust", "/usr/bin/openssl");
        env.write("trust/own.crt", "the image's own\n");
        let text = format!(
            "FROM base\nCOPY root/ /\nCOPY own.crt /etc/ssl/certs/ca-certificates.crt\n\
             RUN echo Q | openssl s_client -connect 127.0.0.1:{port} -verify_return_error 2>&1 | grep 'Verif.*return code'; \
             grep -c CERTIFICATE $PIP_CERT | sed 's/^/lines /'; head -1 $PIP_CERT; echo mine=$CURL_CA_BUNDLE; \
             chmod -R go-w /etc/ssl; cp /etc/ssl/certs/ca-certificates.crt /tmp/x && mv /tmp/x /etc/ssl/certs/ca-certificates.crt\n"
        );
        let epoch = [
            "--network",
            "host",
            "--build-arg",
            "SOURCE_DATE_EPOCH=1",
            "--no-cache",
        ];
        let bundle = ["--ca-bundle", bundle.to_str().unwrap()];
        let trusting = env.build("trust", &text, &[&epoch[..], &bundle].concat()).ok();
        // With every ticket of the server it is said again.
        assert!(trusting.count("return code: 0 (ok)") > 0, "{}", trusting.stderr);
        assert_eq!(trusting.count(" lines 2\n"), 1, "{}", trusting.stderr);
        assert_eq!(trusting.count(" the image's own\n"), 1, "{}", trusting.stderr);
        assert_eq!(
            trusting.count("mine=/dev/rbuild/ca-bundle.crt"),
            1,
            "{}",
            trusting.stderr
        );
        let image = env.inspect("trust");
        for word in ["CA_BUNDLE", "/dev/rbuild", "canary"] {
            assert!(!image.to_string().contains(word), "{word}: {image}");
        }
        // The step is the same to the cache, and its files are those of one that trusts nobody.
        let known = env.build("trust", &text, &epoch[..4]).ok();
        assert_eq!(known.count("CACHED"), 3, "{}", known.stderr);
        let files = env.unpack("trust");
        let search = Command::new("grep")
            .args(["-rl", "-e", "rbuild canary", "-e", "BEGIN CERTIFICATE"])
            .arg(&files)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&search.stdout), "");
        assert!(!files.join("dev/rbuild").exists());
        let doubting = env.build("trust", &text, &epoch).ok();
        assert_eq!(doubting.count("return code: 0 (ok)"), 0, "{}", doubting.stderr);

        let _ = tls.kill();
        let _ = tls.wait();
        let key = env.write("key.pem", std::fs::read(keys.path().join("ca.key")).unwrap());
        let refused = env
            .build("trust", &text, &["--ca-bundle", key.to_str().unwrap()])
            .fails(1);
        assert!(
            refused.stderr.contains("it has no certificate in PEM form"),
            "{}",
            refused.stderr
        );
    });
}

/// Processes whose command line has `text`.
fn processes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    found
}

#[test]
fn the_helper_ends_with_a_killed_build() {
    as_every_user(|env| {
        env.base();
        let mark = format!("sleep 6{}", std::process::id() % 100_000);
        env.write(
            "killed/Dockerfile",
            format!("FROM base\nRUN echo started; {mark}\n"),
        );
        let context = env.path("killed");
        let log = env.path("log");
        let mut build = env
            .rbuild_command(["build", "--progress=plain", context.to_str().unwrap()])
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while processes(&mark).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = std::fs::read_to_string(&log).unwrap();
        let helper = helpers_below(build.id());
        build.kill().unwrap();
        build.wait().unwrap();
        if !text.contains("one of the build's own") {
            eprintln!("skipped: {text}");
            return;
        }
        assert!(!helper.is_empty(), "no helper was found below the build\n{text}");
        let until = Instant::now() + Duration::from_secs(5);
        while helper.iter().any(|pid| Path::new("/proc").join(pid).exists()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        for pid in &helper {
            assert!(!Path::new("/proc").join(pid).exists(), "process {pid} is left");
        }
        assert_eq!(processes(&mark), [""; 0]);
    });
}

/// Processes of pasta (whose program is called passt) or slirp4netns among the descendants of `root`.
fn helpers_below(root: u32) -> Vec<String> {
    let mut below = vec![root.to_string()];
    let mut next = 0;
    while next < below.len() {
        let pid = below[next].clone();
        next += 1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        below.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
    }
    let name = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    below.retain(|pid| {
        ["pasta", "passt", "slirp4netns"]
            .iter()
            .any(|helper| name(pid).starts_with(helper))
    });
    below
}
