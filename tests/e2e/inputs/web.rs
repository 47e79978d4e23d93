//! A3-9, and what else web servers do to those who ask them: names, redirections, silence, lies.

use std::fs;
use std::time::{Duration, Instant};

use rbuild_cache::Digest;

use crate::built::last_layer;
use crate::env::Run;
use crate::escape::guard::{Guard, in_tiers};
use crate::server::{Answer, Server};

/// Builds `FROM scratch` and this into a layout, or not at all.
fn built(guard: &Guard, body: &str, more: &[&str]) -> Run {
    let layout = guard.env.path("layout");
    let output = format!(
        "type=oci,tar=false,compression=uncompressed,dest={}",
        layout.display()
    );
    let more: Vec<&str> = more.iter().copied().chain(["-o", &output]).collect();
    let run = guard.build("web", &format!("FROM scratch\n{body}\n"), &more);
    assert_eq!(layout.exists(), run.code == Some(0), "{body}: {}", run.stderr);
    run
}

fn layer(guard: &Guard, body: &str) -> Vec<String> {
    built(guard, body, &[]).ok();
    let layout = guard.env.path("layout");
    let members = last_layer(&layout);
    fs::remove_dir_all(layout).unwrap();
    members
}

#[test]
fn a3_9_no_name_leads_out_of_the_destination() {
    in_tiers(&["userns"], |guard| {
        let host = guard.host();
        let named = [
            "/..",
            "/.",
            "/%2e%2e",
            "/..%2f..%2fetc%2fevil",
            "/%2fetc%2fevil",
            "/a%00b",
            "/.wh.x",
            "/.wh..wh..opq",
            "/%2e%2e%2f",
            "/a/../../b",
            "/-rf",
            "/%0a",
        ];
        for disposition in [
            String::new(),
            "..".to_owned(),
            ".".to_owned(),
            "/etc/evil".to_owned(),
            "../../evil".to_owned(),
            format!("{host}/null"),
            "..\\\\evil".to_owned(),
            "a%2f..%2f..%2fb".to_owned(),
            ".wh.x".to_owned(),
            "-rf".to_owned(),
            "a;b".to_owned(),
            "n".repeat(5000),
        ] {
            let header = format!("attachment; filename=\"{disposition}\"");
            let server = Server::start(move |_| Answer::of("x").header("Content-Disposition", &header));
            // Every name of an address with one name of a server, every name of a server with one of an address.
            let paths: &[&str] = if disposition.is_empty() { &named } else { &["/f"] };
            for path in paths {
                let members = layer(guard, &format!("ADD {} /d/", server.url(path)));
                assert_eq!(members.len(), 2, "{path} {disposition}: {members:?}");
                assert!(
                    members[0].starts_with("d d755") && members[1].starts_with("d/"),
                    "{path} {disposition}: {members:?}"
                );
            }
        }
    });
}

#[test]
fn a3_9_another_digest_leaves_nothing() {
    in_tiers(&["userns"], |guard| {
        let server = Server::start(|_| Answer::of("evil bytes"));
        let wanted = Digest::of(b"good bytes");
        let body = format!("ADD --checksum={wanted} {} /x", server.url("/f"));
        let run = built(guard, &body, &[]).fails(1);
        assert!(run.stderr.contains("digest mismatch"), "{}", run.stderr);
        let found = guard
            .env
            .command("grep")
            .args(["-rl", "evil bytes"])
            .arg(guard.env.store())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    });
}

#[test]
fn a3_9_redirections_lead_not_everywhere() {
    in_tiers(&["userns"], |guard| {
        let server = Server::start(|request| match request.path.as_str() {
            "/file" => Answer::redirect("file:///etc/passwd"),
            "/gopher" => Answer::redirect("gopher://127.0.0.1/"),
            "/metadata" => Answer::redirect("http://169.254.169.254/latest/meta-data/"),
            "/nowhere" => Answer::redirect("http://"),
            _ => Answer::redirect("/round"),
        });
        for (path, message) in [
            ("/file", "scheme \"file\""),
            ("/gopher", "scheme \"gopher\""),
            ("/metadata", "169.254.169.254, which is a link-local address"),
            ("/nowhere", "redirects to no address"),
            ("/round", "redirected more than 10 times"),
        ] {
            let url = server.url(path);
            let said = built(guard, &format!("ADD {url} /x"), &[]).fails(1).stderr;
            assert!(said.contains(message), "{path}: {said}");
            // As a context, and as a Dockerfile.
            let context = guard.env.rbuild(["build", &url]).fails(1).stderr;
            assert!(context.contains(message), "{path}: {context}");
            let file = guard
                .env
                .rbuild(["build", "-f", &url, &guard.host()])
                .fails(1)
                .stderr;
            assert!(file.contains(message), "{path}: {file}");
        }
        let said = built(guard, "ADD http://169.254.169.254/latest/ /x", &[])
            .fails(1)
            .stderr;
        assert!(said.contains("--allow=network.host"), "{said}");
    });
}

#[test]
fn servers_that_stall_are_given_up_and_those_that_lie_are_not_believed() {
    in_tiers(&["userns"], |guard| {
        let server = Server::start(|request| match request.path.as_str() {
            "/silent" => {
                std::thread::sleep(Duration::from_secs(8));
                Answer::of("late")
            }
            "/stalls" => Answer {
                pause: Some(Duration::from_secs(8)),
                ..Answer::of(vec![b'x'; 100_000])
            },
            "/short" => Answer::of("short").header("Content-Length", "500"),
            "/long" => Answer::of("much too long").header("Content-Length", "4"),
            _ => Answer::of("x").header("Content-Length", "-7"),
        });
        for (path, message) in [
            ("/silent", "sent nothing for 1 s"),
            ("/stalls", "sent nothing for 1 s"),
            ("/short", "end of file before message length reached"),
        ] {
            let url = server.url(path);
            let began = Instant::now();
            let stalled = built(guard, &format!("ADD {url} /x"), &["--stall-timeout=1s"]).fails(1);
            assert!(stalled.stderr.contains(message), "{path}: {}", stalled.stderr);
            assert!(
                stalled.stderr.contains("Dockerfile:2"),
                "{path}: {}",
                stalled.stderr
            );
            if path != "/short" {
                assert!(
                    began.elapsed() < Duration::from_secs(8),
                    "{path}: {:?}",
                    began.elapsed()
                );
                let context = guard.env.rbuild(["build", "--stall-timeout=1s", &url]).fails(1);
                assert!(context.stderr.contains(message), "{path}: {}", context.stderr);
            }
        }
        // What is behind the announced end belongs to nobody.
        let members = layer(guard, &format!("ADD {} /x", server.url("/long")));
        assert!(members[0].contains("f600 0:0 much"), "{members:?}");
        built(guard, &format!("ADD {} /x", server.url("/negative")), &[]).fails(1);
        let refused = guard
            .env
            .rbuild(["build", "--stall-timeout=0", &guard.host()])
            .fails(2);
        assert!(refused.stderr.contains("--stall-timeout"), "{}", refused.stderr);
    });
}
