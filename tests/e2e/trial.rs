//! `rbuild run`: what the command gets, and how its end is told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::env::{Env, as_every_user};

/// Standard output of `rbuild run ARGS`.
fn output(env: &Env, args: &[&str]) -> String {
    env.rbuild(["run"].iter().chain(args)).ok().stdout
}

#[test]
fn a_command_is_tried_in_an_image() {
    as_every_user(|env| {
        env.base();
        let dockerfile =
            "FROM base\nENV A=1\nUSER 5:6\nWORKDIR /work\nENTRYPOINT [\"echo\"]\nCMD [\"usual\"]\n";
        env.build("app", dockerfile, &["--no-cache"]).ok();
        let sh = ["--entrypoint", "sh", "app", "-c"];
        let sh = |flags: &[&str], script: &str| output(env, &[flags, &sh[..], &[script]].concat());
        assert_eq!(output(env, &["app"]), "usual\n");
        assert_eq!(output(env, &["--rm", "app", "-n", "other"]), "other");
        assert_eq!(
            sh(&["-e", "B=2"], "echo $A$B; pwd; id -u; id -g"),
            "12\n/work\n5\n6\n"
        );
        assert_eq!(
            sh(&["-u", "0", "-w", "/etc"], "pwd; id -u; echo x > /new; cat /new"),
            "/etc\n0\nx\n"
        );
        // Nothing of it stays.
        assert_eq!(sh(&["-u", "0"], "ls /new 2>/dev/null || echo gone"), "gone\n");
        assert_eq!(
            sh(&["--network", "none", "--hostname", "here"], "hostname"),
            "here\n"
        );
        for (code, script) in [(7, "exit 7"), (1, "false")] {
            env.rbuild(["run", "--entrypoint", "sh", "app", "-c", script])
                .fails(code);
        }
        let missing = env.rbuild(["run", "--entrypoint", "nosuch", "app"]).fails(127);
        assert!(
            missing.stderr.contains("executable file not found"),
            "{}",
            missing.stderr
        );
        let none = env.rbuild(["run", "--pull", "never", "nosuch"]).fails(1);
        assert!(
            none.stderr.contains("No such image: nosuch:latest"),
            "{}",
            none.stderr
        );
    });
}

#[test]
fn it_reads_and_sees_what_it_is_given() {
    as_every_user(|env| {
        env.base();
        env.write("given/file", "of the machine\n");
        let given = env.path("given");
        let given = given.to_str().unwrap();
        let volume = format!("{given}:/given:ro");
        assert_eq!(
            output(env, &["-v", &volume, "base", "cat", "/given/file"]),
            "of the machine\n"
        );
        let refused = env
            .rbuild(["run", "-v", &volume, "base", "touch", "/given/new"])
            .fails(1);
        assert!(
            refused.stderr.contains("Read-only file system"),
            "{}",
            refused.stderr
        );
        output(
            env,
            &["-v", &format!("{given}:/given"), "base", "touch", "/given/new"],
        );
        assert!(fs::exists(env.path("given/new")).unwrap());
        env.rbuild(["run", "-v", "name:/given", "base", "true"]).fails(1);

        let mut child = env
            .rbuild_command(["run", "-i", "base", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[b'x'; 300_000]).unwrap();
        let read = child.wait_with_output().unwrap();
        assert!(
            read.status.success() && read.stdout.len() == 300_000,
            "{}",
            read.stdout.len()
        );
        // Without -i there is nothing to read.
        assert_eq!(output(env, &["base", "cat"]), "");
        // A terminal of its own.
        let script = "test -t 0 && test -t 1 && echo $TERM";
        assert_eq!(output(env, &["-t", "base", "sh", "-c", script]), "xterm\r\n");
    });
}

#[test]
fn what_it_leaves_becomes_an_image() {
    as_every_user(|env| {
        env.base();
        let script = "echo x > /kept && chown 5:6 /kept; exit 3";
        let run = env
            .rbuild(["run", "--commit", "kept:1", "base", "sh", "-c", script])
            .fails(3);
        assert!(run.stderr.contains("committed kept:1: sha256:"), "{}", run.stderr);
        assert_eq!(env.rbuild(["diff", "base", "kept:1"]).ok().stdout, "A /kept\n");
        let seen = output(env, &["kept:1", "sh", "-c", "stat -c %u:%g /kept; cat /kept"]);
        assert_eq!(seen, "5:6\nx\n");
        let refused = env.rbuild(["run", "-d", "-p", "80:80", "base"]).fails(1);
        assert!(
            refused
                .stderr
                .contains("-d is not supported: rbuild keeps no containers"),
            "{}",
            refused.stderr
        );
    });
}

/// Somebody at a terminal.
struct Typist {
    terminal: fs::File,
    seen: String,
}

impl Typist {
    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` has been shown.
    fn sees(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.seen.contains(text) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no {text:?} in {:?}",
                self.seen
            );
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(&self.terminal, PollFlags::IN)];
            if poll(&mut fds, Some(&second)).unwrap() > 0 {
                let mut bytes = [0; 4096];
                let length = self.terminal.read(&mut bytes).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        }
    }
}

#[test]
fn a_terminal_is_handed_through() {
    as_every_user(|env| {
        env.base();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).unwrap();
        let size = Winsize {
            ws_row: 31,
            ws_col: 97,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).unwrap();
        let modes = || {
            let modes = tcgetattr(&theirs).unwrap();
            (modes.input_modes, modes.output_modes, modes.local_modes)
        };
        let before = modes();
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        let mut command = env.rbuild_command(["run", "-it", "--rm", "base", "sh"]);
        let mut child = command
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        let mut typist = Typist {
            terminal: ours.into(),
            seen: String::new(),
        };
        typist.types("busybox stty size; echo $((6 * 7))\n");
        typist.sees("31 97");
        typist.sees("42");
        assert_ne!(modes(), before, "every key is the command's");
        // The key that interrupts is for the command and not for rbuild.
        typist.types("echo st''arted; sleep 1000\n");
        typist.sees("started");
        std::thread::sleep(Duration::from_millis(300));
        typist.types("\x03");
        typist.types("echo status=$?\n");
        typist.sees("status=130");
        typist.types("exit 5\n");
        assert_eq!(child.wait().unwrap().code(), Some(5));
        assert_eq!(modes(), before);
    });
}
