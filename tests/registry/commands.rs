//! What a user types about registries: `login`, `logout`, `search`, `registry explain`, `--config`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::common::{PASSWORD, TestRegistry, USER};
use super::images::{image, push};
use super::server::{Answer, Server};
use super::{anonymous, reference, with_login};

/// rbuild of a user who has only `home`.
pub fn rbuild(home: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rbuild"))
        .args(args)
        .env_clear()
        .env(
            "PATH",
            format!("{}:{}", home.display(), std::env::var("PATH").unwrap()),
        )
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Some commands end before they read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// All that it printed.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn login_and_logout() {
    let server = TestRegistry::with_password();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".docker/config.json");
    let login = |password: &str| {
        rbuild(
            home.path(),
            &["login", "-u", USER, "--password-stdin", server.address()],
            password,
        )
    };
    let wrong = login("hunter2\n");
    let said = text(&wrong);
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(
        said.contains("denied access") && !said.contains("hunter2"),
        "{said}"
    );
    assert!(!file.exists(), "a wrong password is not kept");
    let right = login(&format!("{PASSWORD}\n"));
    assert!(right.status.success(), "{}", text(&right));
    assert_eq!(String::from_utf8_lossy(&right.stdout), "Login Succeeded\n");
    let stat = std::fs::metadata(&file).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&stat.permissions()) & 0o7777,
        0o600
    );

    // What was kept opens the door.
    let (_dir, owner) = with_login(server.address(), USER, PASSWORD);
    let name = server.reference("app:1");
    push(&owner, &reference(&name), &image("amd64", &[100])).unwrap();
    let head = |args: &[&str]| text(&rbuild(home.path(), args, ""));
    let explained = head(&["registry", "explain", &name]);
    assert!(
        explained.contains(&format!("as user {USER} (")) && !explained.contains(PASSWORD),
        "{explained}"
    );
    let pulled = rbuild(home.path(), &["pull", "-q", &name], "");
    assert!(pulled.status.success(), "{}", text(&pulled));

    let out = head(&["logout", server.address()]);
    assert!(out.contains("Removing login credentials"), "{out}");
    assert!(
        !std::fs::read_to_string(&file).unwrap().contains("auth\""),
        "nothing is left"
    );
    let out = head(&["logout", server.address()]);
    assert!(out.contains("Not logged in"), "{out}");
}

#[test]
fn a_helper_keeps_the_password() {
    let server = TestRegistry::with_password();
    let home = tempfile::tempdir().unwrap();
    let helper = home.path().join("docker-credential-mine");
    std::fs::write(
        &helper,
        format!("#!/bin/sh\ncat > {}/$1\n", home.path().display()),
    )
    .unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = home.path().join(".docker/config.json");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, r#"{"credsStore":"mine"}"#).unwrap();
    let login = rbuild(
        home.path(),
        &["login", "-u", USER, "--password-stdin", server.address()],
        PASSWORD,
    );
    assert!(login.status.success(), "{}", text(&login));
    let kept = std::fs::read_to_string(home.path().join("store")).unwrap();
    assert!(
        kept.contains(server.address()) && kept.contains(PASSWORD),
        "{kept}"
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        r#"{"credsStore":"mine"}"#
    );
    let logout = rbuild(home.path(), &["logout", server.address()], "");
    assert!(logout.status.success(), "{}", text(&logout));
    assert_eq!(
        std::fs::read_to_string(home.path().join("erase")).unwrap(),
        server.address()
    );
}

#[test]
fn search_asks_and_filters() {
    let hub = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("/v1/search?q=web%20server&n=") => Answer::of(
            r#"{"results":[
                {"name":"nginx","description":"Official build\nof Nginx. It is a long story that has no end","star_count":20,"is_official":true},
                {"name":"x/nginx","description":"mine\u001b[31m","star_count":3,"is_official":false}]}"#,
        ),
        _ => Answer::new(404),
    });
    let home = tempfile::tempdir().unwrap();
    let term = format!("{}/web server", hub.address());
    let search = |more: &[&str]| {
        let output = rbuild(home.path(), &[&["search", &term], more].concat(), "");
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let all = search(&[]);
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 3, "{all}");
    assert!(
        lines[0].starts_with("NAME") && lines[1].ends_with("[OK]") && !all.contains('\u{1b}'),
        "{all}"
    );
    assert!(
        !lines[1].contains("no end") && search(&["--no-trunc"]).contains("no end"),
        "{all}"
    );
    assert_eq!(
        search(&["--filter", "stars=5", "--format", "{{.Name}} {{.StarCount}}"]),
        "nginx 20\n"
    );
    assert_eq!(search(&["--limit", "1", "--format", "{{.Name}}"]), "nginx\n");
    let wrong = rbuild(home.path(), &["search", "-f", "colour=red", &term], "");
    assert!(text(&wrong).contains("invalid filter"), "{}", text(&wrong));
}

#[test]
fn the_configuration_is_heard() {
    let (main, mirror) = (TestRegistry::start(), TestRegistry::start());
    push(
        &anonymous(),
        &reference(&mirror.reference("cache/app:1")),
        &image("amd64", &[100]),
    )
    .unwrap();
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join(".config/rbuild/config.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let said = format!(
        "[registries]\nblocked = [\"evil.example\"]\n[registries.mirrors]\n\"{}\" = [\"{}\"]\n[build]\nplatform = [\"linux/s390x\"]\n",
        main.address(),
        mirror.reference("cache")
    );
    std::fs::write(&config, said).unwrap();
    let run = |args: &[&str]| rbuild(home.path(), args, "");
    let explained = text(&run(&["registry", "explain", &main.reference("app:1")]));
    let (first, second) = (
        format!(
            "1. mirror {} (https without verification, else http)",
            mirror.address()
        ),
        format!("2. registry {}", main.address()),
    );
    assert!(
        explained.contains(&first) && explained.contains(&second),
        "{explained}"
    );
    assert!(
        explained.contains("as nobody") && explained.contains("config.toml"),
        "{explained}"
    );
    let pulled = run(&["pull", &main.reference("app:1")]);
    assert!(pulled.status.success(), "{}", text(&pulled));
    let blocked = text(&run(&["pull", "evil.example/x"]));
    assert!(
        blocked.contains("the configuration blocks evil.example"),
        "{blocked}"
    );

    // Defaults of flags, and flags.
    let context = home.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let context = context.to_str().unwrap();
    for (flags, expected) in [(vec![], "s390x"), (vec!["--platform=linux/arm64"], "arm64")] {
        let built = run(&[&["build", "-q", "-t", "x"], flags.as_slice(), &[context]].concat());
        assert!(built.status.success(), "{}", text(&built));
        let shown = run(&["inspect", "--format", "{{.Architecture}}", "x"]);
        assert_eq!(
            String::from_utf8_lossy(&shown.stdout).trim(),
            expected,
            "{}",
            text(&shown)
        );
    }
    std::fs::write(&config, "[build]\n\nplatfrom = []\n").unwrap();
    let wrong = run(&["images"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        text(&wrong).contains("config.toml:3: unknown field `platfrom`"),
        "{}",
        text(&wrong)
    );
    let named = run(&["--config", "/no/such.toml", "images"]);
    assert!(text(&named).contains("reading /no/such.toml"), "{}", text(&named));
}
