use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::{Env, as_every_user};

const TOKEN: &str = "tok-4f81aa90c77be2315d";

fn token(env: &Env) -> String {
    let path = env.write("tok", TOKEN);
    format!("id=tok,src={}", path.display())
}

#[test]
fn v56_a_secret_is_a_file_of_its_step() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base\n\
            RUN --mount=type=secret,id=s stat -c '%a %u:%g' /run/secrets/s > /stat; wc -c < /run/secrets/s >> /stat; \
                grep -q ' /run/secrets/s tmpfs ' /proc/mounts && ! echo x 2>/dev/null > /run/secrets/s\n\
            RUN test ! -e /run/secrets && echo gone >> /stat\n";
        env.write("value", "first\n");
        let given = format!("id=s,src={}", env.path("value").display());
        env.build("secret", dockerfile, &["--secret", &given]).ok();
        let stat = || fs::read_to_string(env.unpack("secret").join("stat")).unwrap();
        assert_eq!(stat(), "400 0:0\n6\ngone\n");
        env.write("value", "another value\n");
        let again = env.build("secret", dockerfile, &["--secret", &given]).ok();
        assert_eq!(again.count("CACHED"), 2, "a value is in no key\n{}", again.stderr);
        let required = "FROM base\nRUN --mount=type=secret,id=nope,required true\n";
        let missing = env.build("secret", required, &["--secret", &given]).fails(1);
        assert!(
            missing.stderr.contains("secret nope: not found"),
            "{}",
            missing.stderr
        );
        assert!(missing.stderr.contains("Dockerfile:2"), "{}", missing.stderr);
        let absent = env
            .build("secret", dockerfile, &["--secret", "id=s,src=/no/such/file"])
            .fails(1);
        assert!(absent.stderr.contains("/no/such/file"), "{}", absent.stderr);
        let wrong = env.build("secret", dockerfile, &["--secret", "src=x"]).fails(2);
        assert!(wrong.stderr.contains("secret missing ID"), "{}", wrong.stderr);
    });
}

#[test]
fn a_secret_that_would_get_out_is_refused() {
    as_every_user(|env| {
        env.base();
        let given = token(env);
        let mount = "RUN --mount=type=secret,id=tok,env=TOK";
        for (body, place) in [
            (
                format!("{mount} mkdir -p /a/b && echo \"x${{TOK}}y\" > /a/b/copy"),
                "/a/b/copy",
            ),
            (
                format!("{mount} printf 'user:%s' \"$TOK\" | base64 > /encoded"),
                "/encoded",
            ),
            (format!("{mount} ln -s \"$TOK\" /link"), "/link"),
            (format!("{mount} echo \"$TOK\""), "the output of the step"),
            ("COPY leaked /x/leaked".to_owned(), "/x/leaked"),
            (format!("ENV T={TOKEN}"), "config.Env[1]"),
            (format!("ARG T={TOKEN}\nRUN true"), "history"),
            (format!("LABEL t={TOKEN}"), "config.Labels.t"),
        ] {
            env.write("leak/leaked", format!("...{TOKEN}..."));
            let dockerfile = format!("FROM base\n{body}\n");
            let refused = env.build("leak", &dockerfile, &["--secret", &given]).fails(1);
            let message = "the secret \"tok\"";
            assert!(
                refused.stderr.contains(message) && refused.stderr.contains(place),
                "{body}\n{}",
                refused.stderr
            );
            assert!(
                env.rbuild(["inspect", "leak"]).code != Some(0),
                "{body}: it has a name"
            );
            let warned = env
                .build("leak", &dockerfile, &["--secret", &given, "--secret-scan=warn"])
                .ok();
            assert!(warned.stderr.contains(message), "{body}\n{}", warned.stderr);
            env.rbuild(["rmi", "leak"]).ok();
            env.rbuild(["prune", "--force", "--all"]).ok();
            env.base();
        }
        let off = env.build(
            "leak",
            &format!("FROM base\n{mount} echo \"$TOK\" > /t; cat /t\n"),
            &["--secret", &given, "--secret-scan=off"],
        );
        let off = off.ok();
        assert!(
            off.stderr.contains(" ***\n") && !off.stderr.contains(TOKEN),
            "output is masked all the same\n{}",
            off.stderr
        );
        let unknown = env
            .build("leak", "FROM base\n", &["--secret-scan=maybe"])
            .fails(2);
        assert!(
            unknown.stderr.contains("error, warn or off"),
            "{}",
            unknown.stderr
        );
    });
}

/// What was looked for, with its forms.
struct Canary {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

fn canary(name: &'static str, value: &str) -> Canary {
    use base64::Engine as _;
    let mut forms = vec![
        value.as_bytes().to_vec(),
        value.replace('+', "%2B").replace('/', "%2F").into_bytes(),
    ];
    for before in ["", "x", "xy"] {
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(format!("{before}{value}"));
        // The ends depend on what lies beside.
        forms.push(text.as_bytes()[4..text.len() - 4].to_vec());
    }
    Canary { name, forms }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut rest = haystack;
    while let Some(position) = rest.iter().position(|byte| *byte == first) {
        if rest[position..].starts_with(needle) {
            return true;
        }
        rest = &rest[position + 1..];
    }
    false
}

fn search(canaries: &[Canary], bytes: &[u8], place: &str, hits: &mut BTreeSet<String>) {
    for canary in canaries {
        if canary.forms.iter().any(|form| contains(bytes, form)) {
            hits.insert(format!("{} in {place}", canary.name));
        }
    }
}

fn search_files(canaries: &[Canary], root: &Path, skip: &dyn Fn(&Path) -> bool, hits: &mut BTreeSet<String>) {
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        if skip(&path) {
            continue;
        }
        search(canaries, path.as_os_str().as_encoded_bytes(), "a name", hits);
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|child| child.unwrap().path()));
        } else if metadata.is_file() {
            search(
                canaries,
                &fs::read(&path).unwrap(),
                &path.display().to_string(),
                hits,
            );
        }
    }
}

/// A5 of the threat model: twelve values that a build comes across, and where none of them may be afterwards.
#[test]
fn twelve_canaries_are_found_nowhere() {
    as_every_user(|env| {
        env.base();
        let value = |name: &str| {
            format!(
                "canary+{name}/{:016x}",
                0x9e37_79b9_7f4a_7c15_u64.rotate_left(name.len() as u32)
            )
        };
        let names = [
            "secret-file",
            "secret-env",
            "ssh-key",
            "git-auth-token",
            "registry-password",
            "proxy-password",
            "netrc",
            "caller-env",
            "cache-mount",
            "bind-file",
            "other-secret",
            "empty-mount",
        ];
        let canaries: Vec<Canary> = names.iter().map(|name| canary(name, &value(name))).collect();
        env.write("secret-file", value("secret-file"));
        env.write("unused-secret", value("other-secret"));
        env.write(
            ".netrc",
            format!("machine localhost login u password {}\n", value("netrc")),
        );
        let auth = serde_json::json!({"auths": {"registry.invalid": {"username": "u", "password": value("registry-password")}}});
        env.write(".docker/config.json", auth.to_string());
        // Not a key that anything can use: it must not get further than its file.
        let key = env.write("key", value("ssh-key"));
        env.write("sweep/bound", value("bind-file"));
        env.write("sweep/.dockerignore", "*\n!bound\n");
        let dockerfile = "FROM base\n\
             RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=FROM_ENV --mount=type=secret,id=empty,target=/e \
                 test -s /run/secrets/file && test -n \"$FROM_ENV\" && cat /run/secrets/file && echo \"$FROM_ENV\" >&2\n\
             RUN --mount=type=cache,id=c,target=/c --mount=type=secret,id=file,target=/s cp /s /c/kept\n\
             RUN --mount=target=/b test -s /b/bound; env > /dev/null; test -n \"$HTTP_PROXY\"\n";
        env.write("sweep/Dockerfile", dockerfile);
        let context = env.path("sweep");
        let image = env.path("sweep.tar");
        let proxy = format!("HTTP_PROXY=http://u:{}@127.0.0.1:9", value("proxy-password"));
        let file = format!("id=file,src={}", env.path("secret-file").display());
        let other = format!("id=other,src={}", env.path("unused-secret").display());
        let output = format!("type=docker,dest={}", image.display());
        let agent = format!("k={}", key.display());
        fs::create_dir(env.path("tmp")).unwrap();
        env.own(&env.path("tmp"));
        let mut build = env.rbuild_command([
            "build",
            "--progress=plain",
            "--build-arg",
            "HTTP_PROXY",
            "--secret",
            &file,
            "--secret",
            "id=env,env=SECRET_ENV",
            "--secret",
            &other,
            "--ssh",
            &agent,
            "-o",
            &output,
            "-o",
            "type=image",
            "--secret-scan=warn",
            "-t",
            "sweep",
            context.to_str().unwrap(),
        ]);
        let (_, proxy) = proxy.split_once('=').unwrap();
        build
            .env("HTTP_PROXY", proxy)
            .env("SECRET_ENV", value("secret-env"))
            .env("GIT_AUTH_TOKEN", value("git-auth-token"))
            .env("CALLER", value("caller-env"))
            .env("EMPTY", value("empty-mount"))
            .env("TMPDIR", env.path("tmp"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut hits = BTreeSet::new();
        let done = AtomicBool::new(false);
        let (output, seen) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    for process in fs::read_dir("/proc").unwrap().flatten() {
                        if let Ok(arguments) = fs::read(process.path().join("cmdline")) {
                            search(&canaries, &arguments, "the arguments of a process", &mut seen);
                        }
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                seen
            });
            let output = build.output().unwrap();
            done.store(true, Ordering::Relaxed);
            (output, sampler.join().unwrap())
        });
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(
            stderr.contains(" ***\n"),
            "what a step prints is masked\n{stderr}"
        );
        hits.extend(seen);
        search(&canaries, &output.stdout, "standard output", &mut hits);
        search(&canaries, &output.stderr, "the log", &mut hits);
        search(&canaries, &fs::read(&image).unwrap(), "the image", &mut hits);
        search_files(&canaries, &env.path("tmp"), &|_| false, &mut hits);
        // A cache has what a step put there, and a file that is mounted is in the store until a prune: nowhere else.
        let store = env.store();
        let bound: Vec<Canary> = canaries
            .into_iter()
            .filter(|canary| canary.name != "bind-file")
            .collect();
        search_files(&bound, &store, &|path| path == store.join("mounts"), &mut hits);
        assert_eq!(hits, BTreeSet::new(), "{stderr}");
        assert_eq!(
            fs::read_dir(env.path("tmp")).unwrap().count(),
            0,
            "temporary files are left"
        );
    });
}
