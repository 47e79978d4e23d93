//! Who owns what, and who a process is: the same in every sandbox, whether it has many ids or one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::Case;
use super::bench::{Bench, is_single};

pub const CASES: &[Case] = &[
    ("owners_are_kept", owners_are_kept),
    ("owners_of_the_image", owners_of_the_image),
    ("who_creates_owns", who_creates_owns),
    (
        "setgid_directories_give_their_group",
        setgid_directories_give_their_group,
    ),
    ("privileges_do_not_come_back", privileges_do_not_come_back),
    ("orphans_stay_who_they_are", orphans_stay_who_they_are),
    ("users_change_what_is_theirs", users_change_what_is_theirs),
    ("owners_in_another_root", owners_in_another_root),
    ("owners_through_descriptors", owners_through_descriptors),
    ("owners_where_nothing_lasts", owners_where_nothing_lasts),
    ("devices_are_noted", devices_are_noted),
    ("many_processes_at_once", many_processes_at_once),
];

fn owners_are_kept() {
    let bench = Bench::new();
    let outcome = bench.shell(
        "cd /tmp; echo x > f; chown 1000:1001 f; ln f g; mv f h; chmod 4711 h; stat -c '%n %u:%g %a %h' g h
         ln -s nothing l; chown -h 5:6 l; mv l m; stat -c '%N %u:%g' m
         mkdir d; chown 7:8 d; mv d e; stat -c '%u:%g' e; mkfifo p; chown 9:10 p; stat -c '%F %u:%g' p
         chown :9 h; stat -c '%u:%g %a' h; chown 0:0 h; stat -c '%u:%g' h; ls -ln m | cut -d' ' -f1-20 | tr -s ' '",
    );
    assert_eq!(
        outcome.ok().rsplit_once('\n').unwrap().0,
        "g 1000:1001 4711 2\nh 1000:1001 4711 2\n'm' -> 'nothing' 5:6\n7:8\nfifo 9:10\n1000:9 711\n0:0"
    );
}

/// What lies in lower layers is copied up with its owner.
fn owners_of_the_image() {
    let bench = Bench::new();
    fs::write(bench.image.join("file"), "bytes").unwrap();
    symlink("file", bench.image.join("link")).unwrap();
    bench.shell("chown 1000:1001 /file; chown -h 5:6 /link").ok();
    let below = bench.shell("chown 1000:1001 /file; chown -h 5:6 /link; chmod 600 /file");
    below.ok();
    let mut spec = bench.spec(&[
        "sh",
        "-c",
        "stat -c '%u:%g %a' /file /link; echo more >> /file; mv /link /moved; stat -c '%u:%g' /file /moved",
    ]);
    super::bench::set_lowers(&mut spec, vec![below.upper.clone(), bench.image.clone()]);
    let above = bench.run(&spec);
    assert_eq!(above.ok(), "1000:1001 600\n5:6 777\n1000:1001\n5:6");
    assert_eq!(above.changes(), ["file", "link", "moved"]);
}

fn who_creates_owns() {
    let bench = Bench::new();
    fs::set_permissions(bench.image.join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut spec = bench.spec(&[
        "sh",
        "-c",
        "umask 027; cd /tmp; touch f; mkdir d; ln -s x l; mkfifo p; : > g; cp f h; stat -c '%n %u:%g %a' *; id -u",
    ]);
    spec.user = "1000:77".to_owned();
    assert_eq!(
        bench.run(&spec).ok(),
        "d 1000:77 750\nf 1000:77 640\ng 1000:77 640\nh 1000:77 640\nl 1000:77 777\np 1000:77 640\n1000"
    );
}

fn setgid_directories_give_their_group() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "cd /tmp; mkdir s; chown 0:50 s; chmod 2775 s; cd s; touch f; mkdir d; ln -s x l; mkfifo p; touch d/g
                 stat -c '%n %u:%g %a' d d/g f l p"
            )
            .ok(),
        "d 0:50 2755\nd/g 0:50 644\nf 0:50 644\nl 0:50 777\np 0:50 644"
    );
}

fn privileges_do_not_come_back() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "chmod 777 /tmp; su -s /bin/sh alice -c 'id -u; id -g; su root -c id 2>/dev/null || echo refused
                 chown 0 /etc/passwd 2>/dev/null || echo refused; mknod /tmp/n c 1 3 2>/dev/null || echo refused'; id -u"
            )
            .ok(),
        "1000\n1001\nrefused\nrefused\nrefused\n0"
    );
}

/// The parent is gone before the child does anything that anybody sees.
fn orphans_stay_who_they_are() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "chmod 777 /tmp; su -s /bin/sh alice -c '(sleep 0.3; touch /tmp/late; id -u > /tmp/who) &'
                 touch /tmp/mine; sleep 1; stat -c %u /tmp/late /tmp/mine; cat /tmp/who"
            )
            .ok(),
        "1000\n0\n1000"
    );
}

fn users_change_what_is_theirs() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "cd /tmp; chmod 777 .; touch root; chown 1000:1000 root; chown 0:0 root
                 su -s /bin/sh alice -c 'touch own; chmod 700 own; chown $(id -u):$(id -g) own && echo same
                 chown 0 own 2>/dev/null || echo refused; chgrp 0 own 2>/dev/null || echo refused
                 chown $(id -u) root 2>/dev/null || echo refused'; stat -c '%n %a' own"
            )
            .ok(),
        "same\nrefused\nrefused\nrefused\nown 700"
    );
}

fn owners_in_another_root() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "mkdir -p /jail/bin /jail/d; cp /bin/busybox /jail/bin/; echo x > /jail/f; chown 5:6 /jail/f; chown 7:8 /f 2>/dev/null
                 ln -s /f /jail/d/l
                 chroot /jail /bin/busybox sh -c 'stat() { /bin/busybox stat -c %u:%g \"$@\"; }; stat /f; cd d; stat ../f; stat -L l
                 /bin/busybox chown 9:10 l; stat /f; /bin/busybox chown -h 1:2 l; stat l'; stat -c %u:%g /jail/f"
            )
            .ok(),
        "5:6\n5:6\n5:6\n9:10\n1:2\n9:10"
    );
}

fn owners_through_descriptors() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "cd /tmp; echo x > f; chown 5:6 f; exec 7<f; rm f; stat -Lc %u:%g /proc/self/fd/7
                 chown 8:9 /proc/self/fd/7; stat -Lc %u:%g /proc/self/fd/7 /dev/fd/7"
            )
            .ok(),
        "5:6\n8:9\n8:9"
    );
}

/// On file systems of the sandbox itself a step sees what it has done.
fn owners_where_nothing_lasts() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "cd /dev/shm; echo x > f; chown 5:6 f; ln -s f l; chown -h 7:8 l; mv f g; stat -c '%u:%g' g l"
            )
            .ok(),
        "5:6\n7:8"
    );
}

fn devices_are_noted() {
    let bench = Bench::new();
    let outcome = bench.shell(
        "cd /tmp; mknod -m 640 n c 1 3 && chown 0:6 n && mv n m && stat -c '%F %t,%T %u:%g %a' m; mknod w c 0 0 2>/dev/null || echo no",
    );
    // Elsewhere only the machine's root makes some.
    if is_single() {
        assert_eq!(outcome.ok(), "character special file 1,3 0:6 640\nno");
    }
}

fn many_processes_at_once() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .shell(
                "cd /tmp; i=0; while [ $i -lt 40 ]; do i=$((i+1)); (echo $i > f$i; chown $i:$((i+1)) f$i) & done; wait
                 i=0; while [ $i -lt 40 ]; do i=$((i+1)); [ $(stat -c %u:%g f$i) = $i:$((i+1)) ] || echo wrong $i; done; echo done"
            )
            .ok(),
        "done"
    );
}
