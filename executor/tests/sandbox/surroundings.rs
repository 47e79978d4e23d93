//! What a step sees and may do.

use std::fs;

use rbuild_executor::{ExecSpec, Network, Rlimit, Script};

use super::Case;
use super::bench::{Bench, is_single, set_lowers};

pub const CASES: &[Case] = &[
    ("process", process),
    ("descriptors", descriptors),
    ("capabilities", capabilities),
    ("system_calls", system_calls),
    ("masked_paths", masked_paths),
    ("devices", devices),
    ("network_files", network_files),
    ("network_none", network_none),
    ("network_default", network_default),
    ("resolver_settings", resolver_settings),
    ("users", users),
    ("working_directory", working_directory),
    ("script", script),
    ("limits", limits),
    ("insecure", insecure),
    ("many_layers", many_layers),
    ("nothing_left_in_the_layer", nothing_left_in_the_layer),
    ("owners", owners),
    ("parallel", parallel),
];

fn process() {
    let bench = Bench::new();
    let mut spec = bench.spec(&[
        "sh",
        "-c",
        "echo $$; hostname; umask; pwd; env | grep -v -e SHLVL -e PWD | sort; cat; \
         grep NoNewPrivs /proc/self/status; readlink /proc/self/ns/pid; ps -o pid | wc -l",
    ]);
    spec.env.push("A=b c".to_owned());
    let lines: Vec<String> = bench.run(&spec).ok().lines().map(str::to_owned).collect();
    assert_eq!(lines[..4], ["1", "buildkitsandbox", "0022", "/"]);
    assert_eq!(lines[4..7], ["A=b c", "HOME=/root", "PATH=/usr/bin:/bin"]);
    assert_eq!(lines[7], "NoNewPrivs:\t0");
    assert_ne!(
        lines[8],
        fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap()
    );

    spec.hostname = "other".to_owned();
    spec.env.push("HOME=/given".to_owned());
    spec.args = vec![
        "sh".to_owned(),
        "-c".to_owned(),
        "hostname; echo $HOME".to_owned(),
    ];
    spec.rootfs = bench.spec(&[]).rootfs;
    assert_eq!(bench.run(&spec).ok(), "other\n/given");
}

fn descriptors() {
    // Descriptors of the builder that are not closed by exec must not arrive in a step.
    let leaks: Vec<_> = (0..20)
        .map(|_| {
            rustix::io::dup(rustix::fs::open("/", rustix::fs::OFlags::RDONLY, 0.into()).unwrap()).unwrap()
        })
        .collect();
    let bench = Bench::new();
    // 3 is the directory that ls reads.
    assert_eq!(bench.shell("ls /proc/self/fd | tr '\\n' ' '").ok(), "0 1 2 3");
    assert_eq!(bench.shell("readlink /proc/self/fd/0; cat").ok(), "/dev/null");
    drop(leaks);
}

fn capabilities() {
    let bench = Bench::new();
    let sets = "grep -e Cap -e Groups /proc/self/status | tr -d '\\t '";
    assert_eq!(
        bench.shell(sets).ok(),
        "Groups:0\nCapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
         CapBnd:00000000a80425fb\nCapAmb:0000000000000000"
    );
    let mut spec = bench.spec(&["sh", "-c", sets]);
    spec.user = "alice".to_owned();
    if is_single() {
        // The file shows the one id that there is; what system calls say is checked by the cases of owners.
        return;
    }
    assert_eq!(
        bench.run(&spec).ok(),
        "Groups:101001\nCapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\n\
         CapBnd:00000000a80425fb\nCapAmb:0000000000000000"
    );
}

fn system_calls() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell("grep -w Seccomp /proc/self/status | tr -d '\\t'")
            .ok(),
        "Seccomp:2"
    );
    for denied in [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs x /tmp",
        "umount /proc",
    ] {
        let outcome = bench.shell(&format!("{denied} 2>&1; true"));
        assert!(outcome.ok().contains("ermi"), "{denied}: {}", outcome.out);
    }
    assert_eq!(bench.shell("chroot / /bin/echo allowed").ok(), "allowed");
}

fn masked_paths() {
    let bench = Bench::new();
    bench
        .shell("test -z \"$(cat /proc/keys)\" && test -z \"$(cat /proc/timer_list)\"")
        .ok();
    bench
        .shell("! test -e /sys/firmware || test -z \"$(ls /sys/firmware)\"")
        .ok();
    for refused in [
        "echo b > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/kernel/domainname",
        "chmod 600 /proc/keys",
        "touch /sys/x",
        "mkdir /sys/fs/cgroup/x",
        "echo nameserver 1.1.1.1 > /etc/resolv.conf",
        "chmod 600 /etc/hosts",
        "rm /etc/hosts",
    ] {
        bench.shell(&format!("! ( {refused} ) 2>/dev/null")).ok();
    }
    let null = fs::metadata("/dev/null").unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&null.permissions()) & 0o777,
        0o666
    );
}

fn devices() {
    let bench = Bench::new();
    assert_eq!(
        bench.shell("ls /dev | tr '\\n' ' '").ok(),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    let types =
        bench.shell("for d in null zero full random urandom tty; do stat -c '%n %t,%T %a' /dev/$d; done");
    assert_eq!(
        types.ok(),
        "/dev/null 1,3 666\n/dev/zero 1,5 666\n/dev/full 1,7 666\n/dev/random 1,8 666\n/dev/urandom 1,9 666\n/dev/tty 5,0 666"
    );
    bench
        .shell("echo x > /dev/null && head -c 4 /dev/urandom | wc -c && echo out > /dev/stdout")
        .ok();
    assert_eq!(
        bench
            .shell("stat -c %a /dev/shm /dev/pts/ptmx | tr '\\n' ' '")
            .ok(),
        "1777 666"
    );
    bench
        .shell("grep ' /dev/shm tmpfs .*size=65536k' /proc/mounts && grep ' /dev/mqueue mqueue' /proc/mounts")
        .ok();
    let too_much = bench.shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=65 2>&1");
    assert!(too_much.out.contains("No space left"), "{}", too_much.out);
}

fn network_files() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["cat", "/etc/hosts"]);
    spec.extra_hosts = vec![("db".to_owned(), "10.0.0.7".to_owned())];
    assert_eq!(
        bench.run(&spec).ok(),
        "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb"
    );
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let seen = bench.shell("cat /etc/resolv.conf");
    assert_eq!(seen.ok(), resolv.trim_end());
    assert_eq!(seen.changes(), [""; 0]);
}

fn network_none() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["sh", "-c", "ls /sys/class/net; cat /sys/class/net/lo/flags"]);
    spec.network = Network::None;
    assert_eq!(bench.run(&spec).ok(), "lo\n0x9");
}

/// The machine's loopback is behind neither the same address nor the gateway, and cloud metadata is refused at once.
fn network_default() {
    let bench = Bench::new();
    let taken = bench.executor.join_network(&bench.cancel).unwrap().unwrap();
    assert_eq!(bench.executor.join_network(&bench.cancel).unwrap(), None);
    let mut spec = bench.spec(&["sh", "-c", ""]);
    spec.network = Network::Default;
    if !taken.own {
        println!("skipped: {}", taken.line);
        assert_eq!(bench.run(&spec).ok(), "");
        return;
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    spec.args = [
        "sh",
        "-c",
        &format!(
            "ls /sys/class/net | tr '\\n' ' '; \
         for a in 127.0.0.1 $(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'); do \
           echo | timeout 3 nc -w 2 $a {port} && echo reached $a; done; \
         timeout 2 nc -w 1 169.254.169.254 80 2>&1; ip link set lo down 2>&1; ip rule del pref 1 2>&1; true"
        ),
    ]
    .map(str::to_owned)
    .to_vec();
    let outcome = bench.run(&spec);
    let text = outcome.ok();
    assert!(text.starts_with("eth0 lo ") || text.contains(" lo "), "{text}");
    assert!(!text.contains("reached"), "{text}");
    assert!(
        text.contains("169.254.169.254") && text.contains("unreachable"),
        "{text}"
    );
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
}

fn resolver_settings() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["cat", "/etc/resolv.conf", "/etc/hosts"]);
    spec.dns = rbuild_executor::Dns {
        servers: vec!["10.9.8.7".parse().unwrap()],
        search: vec!["corp.example".to_owned()],
        options: vec!["ndots:3".to_owned()],
    };
    spec.extra_hosts = vec![("machine".to_owned(), ExecSpec::HOST_GATEWAY.to_owned())];
    let outcome = bench.run(&spec);
    let text = outcome.ok();
    assert!(
        text.contains("search corp.example\nnameserver 10.9.8.7\noptions ndots:3\n"),
        "{text}"
    );
    assert!(text.ends_with("127.0.0.1\tmachine"), "{text}");
}

fn users() {
    let bench = Bench::new();
    for (user, expected) in [
        ("", "0 0 0 /root"),
        ("alice", "1000 1001 1001 10 /home/alice"),
        ("1000", "1000 1001 1001 10 /home/alice"),
        ("alice:wheel", "1000 10 10 /home/alice"),
        ("7:8", "7 8 8 /"),
        ("7", "7 0 0 /"),
    ] {
        let mut spec = bench.spec(&["sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME"]);
        spec.user = user.to_owned();
        assert_eq!(bench.run(&spec).ok(), expected, "{user:?}");
    }
    for (user, expected) in [
        (
            "bob",
            "unable to find user bob: no matching entries in passwd file",
        ),
        (
            "4294967296",
            "unable to find user 4294967296: uids and gids must be in range 0-2147483647",
        ),
    ] {
        let mut spec = bench.spec(&["true"]);
        spec.user = user.to_owned();
        assert_eq!(bench.run(&spec).error(), expected);
    }
}

fn working_directory() {
    let bench = Bench::new();
    let at = |cwd: &str, user: &str| {
        let mut spec = bench.spec(&["pwd"]);
        spec.cwd = cwd.to_owned();
        spec.user = user.to_owned();
        bench.run(&spec)
    };
    assert_eq!(at("/tmp", "").ok(), "/tmp");
    let made = at("/new/deep", "alice");
    assert_eq!(made.ok(), "/new/deep");
    assert_eq!(made.changes(), ["new", "new/deep"]);
    assert_eq!(at("/proc/self", "").ok(), "/proc/1");
    for outside in [
        "/proc/self/fd/3",
        "/proc/self/fd/10",
        "/proc/self/cwd/x",
        "/proc/self/root/new",
    ] {
        let refused = at(outside, "");
        assert!(
            refused.error().contains("working directory"),
            "{outside}: {}",
            refused.error()
        );
    }
}

fn script() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["/dev/pipes/EOF", "argument"]);
    let data = b"#!/bin/sh\necho \"$0 $1\"\n".to_vec();
    spec.script = Some(Script {
        path: "/dev/pipes/EOF".to_owned(),
        data,
    });
    spec.user = "alice".to_owned();
    let outcome = bench.run(&spec);
    assert_eq!(outcome.ok(), "/dev/pipes/EOF argument");
    assert_eq!(outcome.changes(), [""; 0]);
    for path in ["/etc/passwd", "/dev/../etc/x", "/dev/null", "/dev/"] {
        let mut spec = bench.spec(&["true"]);
        spec.script = Some(Script {
            path: path.to_owned(),
            data: Vec::new(),
        });
        assert!(bench.run(&spec).error().contains("making the script"), "{path}");
    }
}

fn limits() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c"]);
    spec.ulimits = vec![
        Rlimit {
            name: "nofile".to_owned(),
            soft: Some(100),
            hard: Some(200),
        },
        Rlimit {
            name: "core".to_owned(),
            soft: Some(0),
            hard: Some(0),
        },
    ];
    assert_eq!(bench.run(&spec).ok(), "100\n200\n0");
    // More than anybody may have is as much as there is.
    let own = bench.shell("ulimit -Hn");
    let mut spec = bench.spec(&["sh", "-c", "ulimit -Hn"]);
    spec.ulimits = vec!["nofile=64:-1".parse().unwrap()];
    assert_eq!(bench.run(&spec).ok(), own.ok());
    let mut spec = bench.spec(&["true"]);
    spec.ulimits = vec![Rlimit {
        name: "files".to_owned(),
        soft: None,
        hard: None,
    }];
    assert!(bench.run(&spec).error().contains("unknown limit"));
}

fn insecure() {
    let bench = Bench::new();
    let mut spec = bench.spec(&[
        "sh",
        "-c",
        "grep -w Seccomp /proc/self/status; mount -t tmpfs x /tmp && echo mounted",
    ]);
    spec.insecure = true;
    let outcome = bench.run(&spec);
    assert!(
        // Where owners are emulated there is a filter, but it forbids nothing.
        outcome.ok().ends_with("mounted") && (is_single() || !outcome.out.contains('2')),
        "{}",
        outcome.out
    );
}

fn many_layers() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["sh", "-c", "cat /layer; ls / | grep -c ^file"]);
    let mut lowers = Vec::new();
    for n in 0..130 {
        // Long names: a mount option holds 255 bytes.
        let layer = bench.directory.join(format!("{n:0>200}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("layer"), n.to_string()).unwrap();
        fs::write(layer.join(format!("file{n}")), "").unwrap();
        lowers.insert(0, layer);
    }
    lowers.push(bench.image.clone());
    set_lowers(&mut spec, lowers);
    assert_eq!(bench.run(&spec).ok(), "129130");
}

fn nothing_left_in_the_layer() {
    let bench = Bench::new();
    assert_eq!(bench.shell("ls / /etc /dev /proc >/dev/null").changes(), [""; 0]);
    let outcome = bench.shell("echo x > /tmp/x; rm /bin/head; mkdir -p /opt/y");
    outcome.ok();
    assert_eq!(
        outcome.changes(),
        ["bin", "bin/head", "opt", "opt/y", "tmp", "tmp/x"]
    );
}

fn owners() {
    let bench = Bench::new();
    let outcome = bench.shell("touch /tmp/x && chown 1234:4321 /tmp/x && chmod 4755 /tmp/x");
    outcome.ok();
    if is_single() {
        let mut note = [0u8; 32];
        let length = rustix::fs::getxattr(outcome.upper.join("tmp/x"), "user.rbuild.owner", &mut note[..]);
        assert_eq!(&note[..length.unwrap()], b"1234:4321");
        return;
    }
    // The builder sees the same owners as the step: they share the user namespace.
    let stat = rustix::fs::stat(outcome.upper.join("tmp/x")).unwrap();
    assert_eq!(
        (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777),
        (1234, 4321, 0o4755)
    );
}

fn parallel() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let bench = &bench;
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(bench.shell(&format!("echo {n}")).ok(), n.to_string());
                }
            });
        }
    });
}
