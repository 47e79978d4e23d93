//! Random builds and random changes of them. Most of them can be built; the others must fail with and without a cache.

use super::files::{PATHS, TEXTS, change_file, put};
use super::world::{Files, World};
use crate::random::Random;

/// What matches nothing is no error.
const SOURCES: &[&str] = &[
    ".", "*", "*.txt", "d/*", "?", "d/[xy]*", "[a-c]*", "t*", "l*", "**/z*", "d*/x", "*/*",
];

const DESTINATIONS: &[&str] = &[
    "/", "/x", "/x/", "/x/", "/y/z/", "y", ".", "./", "/w/$D", "/w/$D/", "/l/", "/dl/", "/d/", "$D/k", "/$A/",
];

const BUILT: &[&str] = &[
    "/", "/*", "/x*", "/x*/", "/y*", "/[wxy]*", "/h*", "/d*", "/l*", "/*/z", "/x", "/w", "/out*", "/dl*",
];

const ARGS: &[(&str, &[&str])] = &[
    ("A", &["1", "2", "1 ", "a-b", ""]),
    ("D", &["p", "q", "p/q"]),
    ("U", &["1:2", "7", "0:0", "3:0"]),
    ("M", &["700", "u+x", "a+rX,go-w", "4755"]),
    ("S", &["a", "b", "d", "c.txt"]),
    ("B", &["s0", "scratch"]),
];

/// What cannot be seen in the text: which chain it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Whether there is a base with a shell, and RUN.
    pub runs: bool,
}

pub fn world(random: &mut Random, kind: Kind) -> World {
    let mut world = World::default();
    for path in PATHS {
        if !random.once_in(4) {
            put(random, &mut world.files, path);
        }
    }
    for path in ["a", "x", "d", "d/x"] {
        if !random.once_in(3) {
            put(random, &mut world.other, path);
        }
    }
    for (name, values) in ARGS {
        if random.once_in(2) {
            world.args.insert(name, random.of(values).to_owned());
        }
    }
    if random.once_in(3) {
        world.ignore.push(pattern(random));
    }
    if random.once_in(3) {
        world
            .dockerfile
            .push(format!("ARG B={}", random.of(&["scratch", "s0"])));
    }
    for stage in 0..1 + random.below(3) {
        let from = from(random, stage, kind);
        world.dockerfile.push(from);
        for name in ["A", "D", "U", "M", "S"] {
            if random.once_in(2) {
                world
                    .dockerfile
                    .push(format!("ARG {name}={}", value(random, name)));
            }
        }
        for _ in 0..1 + random.below(4) {
            let line = line(random, &world, kind);
            world.dockerfile.push(line);
        }
    }
    world
}

/// A change, and what it is called.
pub fn change(random: &mut Random, world: &mut World, kind: Kind) -> String {
    let before = world.clone();
    loop {
        let what = try_change(random, world, kind);
        if *world != before && refers_backwards(&world.dockerfile) {
            return what;
        }
        world.clone_from(&before);
    }
}

/// Whether all stages that are named come earlier: another name would be that of an image.
fn refers_backwards(dockerfile: &[String]) -> bool {
    let mut stages = 0;
    dockerfile.iter().all(|line| {
        stages += usize::from(line.starts_with("FROM"));
        let named = line
            .split("from=s")
            .skip(1)
            .filter_map(|rest| rest.get(..1)?.parse::<usize>().ok());
        named.into_iter().all(|stage| stage + 1 < stages)
    })
}

fn try_change(random: &mut Random, world: &mut World, kind: Kind) -> String {
    match random.below(20) {
        0..=6 => {
            let files = if random.once_in(6) {
                &mut world.other
            } else {
                &mut world.files
            };
            change_file(random, files)
        }
        7 => {
            let path = random.of(PATHS);
            put(random, &mut world.files, path);
            format!("put {path}")
        }
        8..=9 => {
            let name = random.pick(ARGS).0;
            if random.once_in(4) {
                world.args.remove(name);
                return format!("no --build-arg {name}");
            }
            world.args.insert(name, value(random, name));
            format!("--build-arg {name}={}", world.args[name])
        }
        10 => {
            if random.once_in(2) && !world.ignore.is_empty() {
                let at = random.below(world.ignore.len());
                format!("no longer ignored: {}", world.ignore.remove(at))
            } else {
                world.ignore.push(pattern(random));
                format!("ignored: {:?}", world.ignore)
            }
        }
        11 => {
            let stages = world
                .dockerfile
                .iter()
                .filter(|line| line.starts_with("FROM"))
                .count();
            world.target = (!random.once_in(3)).then(|| format!("s{}", random.below(stages)));
            format!("--target {:?}", world.target)
        }
        12 => {
            world.label = (!random.once_in(2)).then(|| random.of(TEXTS).trim().to_owned());
            if !kind.runs && random.once_in(2) {
                world.platform = random.pick(&[None, Some("linux/arm64"), Some("linux/amd64")]);
            }
            format!("--label {:?} --platform {:?}", world.label, world.platform)
        }
        _ => change_line(random, world, kind),
    }
}

fn change_line(random: &mut Random, world: &mut World, kind: Kind) -> String {
    let bodies: Vec<usize> = (0..world.dockerfile.len())
        .filter(|at| !world.dockerfile[*at].starts_with("FROM"))
        .collect();
    let first = world
        .dockerfile
        .iter()
        .position(|line| line.starts_with("FROM"))
        .unwrap_or(0);
    match random.below(6) {
        0 => {
            let at = first + 1 + random.below(world.dockerfile.len() - first);
            let line = line(random, world, kind);
            world.dockerfile.insert(at, line.clone());
            format!("line {at} inserted: {line}")
        }
        1 if !bodies.is_empty() => {
            let at = random.pick(&bodies);
            format!("line {at} removed: {}", world.dockerfile.remove(at))
        }
        2 if bodies.len() > 1 => {
            let (one, other) = (random.pick(&bodies), random.pick(&bodies));
            if one.min(other) > first {
                world.dockerfile.swap(one, other);
            }
            format!("lines {one} and {other} swapped")
        }
        3 => {
            let froms: Vec<usize> = (0..world.dockerfile.len())
                .filter(|at| world.dockerfile[*at].starts_with("FROM"))
                .collect();
            let stage = random.below(froms.len());
            world.dockerfile[froms[stage]] = from(random, stage, kind);
            format!("line {}: {}", froms[stage], world.dockerfile[froms[stage]])
        }
        4 if !bodies.is_empty() => {
            // One letter of it.
            let at = random.pick(&bodies);
            let swaps = [
                ("/x", "/y"),
                ("1", "2"),
                ("=7", "=6"),
                ("a", "b"),
                ("one", "two"),
                (" /", "  /"),
                ("$A", "$D"),
            ];
            let (old, new) = random.pick(&swaps);
            let (old, new) = if random.once_in(2) { (old, new) } else { (new, old) };
            world.dockerfile[at] = world.dockerfile[at].replacen(old, new, 1);
            format!("line {at}: {}", world.dockerfile[at])
        }
        _ if !bodies.is_empty() => {
            let at = random.pick(&bodies);
            if at > first {
                world.dockerfile[at] = line(random, world, kind);
            }
            format!("line {at} replaced: {}", world.dockerfile[at])
        }
        _ => String::new(),
    }
}

fn value(random: &mut Random, name: &str) -> String {
    let values = ARGS
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(&["1"][..], |(_, values)| values);
    random.of(values).to_owned()
}

fn pattern(random: &mut Random) -> String {
    random
        .of(&[
            "a", "d", "*.txt", "!d/x", "**/z", "d/e", "**", "!a", "f/*", ".hid",
        ])
        .to_owned()
}

fn from(random: &mut Random, stage: usize, kind: Kind) -> String {
    let base = match random.below(10) {
        0..=3 if stage > 0 => format!("s{}", random.below(stage)),
        4 if stage > 0 => "${B:-scratch}".to_owned(),
        5..=9 if kind.runs => "base".to_owned(),
        _ if kind.runs && !random.once_in(4) => "base".to_owned(),
        _ => "scratch".to_owned(),
    };
    format!("FROM {base} AS s{stage}")
}

fn line(random: &mut Random, world: &World, kind: Kind) -> String {
    let stages = world
        .dockerfile
        .iter()
        .filter(|line| line.starts_with("FROM"))
        .count();
    if kind.runs && random.once_in(3) {
        return run(random, stages);
    }
    match random.below(24) {
        0..=9 => copy(random, world, stages),
        10..=12 => add(random, world),
        13 | 14 => {
            let name = random.of(&["E", "\"E\"", "E"]);
            let flags = flags(random, false);
            let data = random.of(&["one", "two $A", "two\nlines ${D:-x}", "\\$A"]);
            format!(
                "COPY {flags}<<{name} {}\n{data}\nE",
                random.of(&["/h", "/x/", "/h1", "/d/h"])
            )
        }
        15 | 16 => format!(
            "WORKDIR {}",
            random.of(&["/w", "/w/$D", "sub", "/x/y", "/l/w", "/"])
        ),
        17 => format!("ENV K=$A D={}", random.of(&["p", "q", "$D"])),
        18 => {
            let name = random.of(&["A", "D", "U", "M", "S"]);
            format!("ARG {name}={}", value(random, name).trim())
        }
        19 => format!("USER {}", random.of(&["0", "1:2", "7", "$U"])),
        20 => random
            .of(&[
                "ONBUILD COPY a* /ob/",
                "ONBUILD ENV Q=$A",
                "ONBUILD ADD t* /ob/",
                "ONBUILD WORKDIR /ob/$D",
            ])
            .to_owned(),
        21 => random
            .of(&[
                "LABEL k=$A",
                "LABEL k=v",
                "CMD [\"a\"]",
                "CMD a $A",
                "ENTRYPOINT [\"/x\", \"y\"]",
                "EXPOSE 80",
            ])
            .to_owned(),
        22 => random
            .of(&[
                "VOLUME /x",
                "STOPSIGNAL 9",
                "HEALTHCHECK NONE",
                "SHELL [\"/bin/sh\", \"-ec\"]",
                "VOLUME /v/$D",
            ])
            .to_owned(),
        _ => format!("WORKDIR {}", random.of(&["/y", "/$A/b", "../k"])),
    }
}

fn flags(random: &mut Random, copies: bool) -> String {
    let mut flags = String::new();
    if random.once_in(4) {
        flags += &format!("--chown={} ", random.of(&["1:2", "$U", "7", "0:5"]));
    }
    if random.once_in(4) {
        flags += &format!("--chmod={} ", random.of(&["700", "$M", "u+x,go-w", "0644"]));
    }
    if random.once_in(5) {
        flags += "--link ";
    }
    if copies && random.once_in(6) {
        flags += &format!("--exclude={} ", random.of(&["*.txt", "x", "**/z", "d/e", "*/g"]));
    }
    flags
}

/// Mostly one that is there.
fn source(random: &mut Random, files: &Files) -> String {
    if random.once_in(3) || files.is_empty() {
        return random.of(SOURCES).to_owned();
    }
    let at = random.below(files.len());
    let path = files.keys().nth(at).cloned().unwrap_or_default();
    random.of(&["", "", "/", "./", "../", "d/../"]).to_owned() + &path
}

fn copy(random: &mut Random, world: &World, stages: usize) -> String {
    let mut flags = flags(random, true);
    let mut dest = random.of(DESTINATIONS).to_owned();
    let from = random.below(9);
    let sources = if from < 3 && stages > 1 {
        flags += &format!("--from=s{} ", random.below(stages - 1));
        random.of(BUILT).to_owned()
    } else if from == 3 {
        flags += "--from=other ";
        source(random, &world.other)
    } else {
        if random.once_in(6) {
            flags += "--parents ";
        }
        match random.below(8) {
            0 => {
                dest = random.of(&["/x/", "/", "./", "/y/$D/"]).to_owned();
                format!(
                    "{}\", \"{}",
                    source(random, &world.files),
                    source(random, &world.files)
                )
            }
            1 => "$S*".to_owned(),
            2 => "./d/./e*".to_owned(),
            _ => source(random, &world.files),
        }
    };
    if sources.contains(' ') {
        format!("COPY {flags}[\"{sources}\", \"{dest}\"]")
    } else {
        format!("COPY {flags}{sources} {dest}")
    }
}

fn add(random: &mut Random, world: &World) -> String {
    let flags = flags(random, true);
    let dest = random.of(&["/", "/x/", "/ar/", "/y", "./", "/l/"]);
    let source = match random.below(4) {
        0 => source(random, &world.files),
        1 => "*t*".to_owned(),
        2 => "u*".to_owned(),
        _ => "t*".to_owned(),
    };
    let unpack = if random.once_in(5) {
        random.of(&["--unpack=false ", "--unpack=true "])
    } else {
        ""
    };
    format!("ADD {flags}{unpack}[\"{source}\", \"{dest}\"]")
}

fn run(random: &mut Random, stages: usize) -> String {
    let what = random.of(&[
        "cat /a /x /x/* /h /d/x > /out 2>/dev/null; true",
        "stat -c '%n %a %u:%g %F' /x /x/* /y /y/* /w /w/* /d /d/* /l > /st 2>/dev/null; true",
        "echo $A $D $K > /ra; true",
        "chmod ${M:-711} /x; true",
        "chown 5:6 /x /h; true",
        "rm -rf /x; true",
        "mkdir -p /y/z && echo 1 > /y/z/r; true",
        "ln -s y /l; ln -s x /dl; true",
        "mv /x /y; true",
        "id -u > /tmp/id; id -g >> /tmp/id; pwd >> /tmp/id",
        "ln /x /x2; ln /h /h2; true",
        "find /x /y /w /d /ar 2>/dev/null | sort > /f; true",
        "umask > /tmp/u; hostname >> /tmp/u",
    ]);
    match random.below(12) {
        0 => {
            "RUN --mount=type=bind,target=/m cd /m && find . | sort > /lm; cat a d/x >> /lm; true".to_owned()
        }
        1 => "RUN --mount=type=bind,source=d,target=/m,ro stat -c '%n %a' /m /m/* > /lm; true".to_owned(),
        8 if stages > 1 => format!(
            "RUN --mount=type=bind,from=s{},source={},target=/m stat -c '%n %a %u %F' /m /m/* > /lm; true",
            random.below(stages - 1),
            random.of(&["/x", "/d", "/y", "/"])
        ),
        2 if stages > 1 => format!(
            "RUN --mount=type=bind,from=s{},target=/m cat /m/x /m/h /m/out > /lm 2>/dev/null; true",
            random.below(stages - 1)
        ),
        3 => format!(
            "RUN --mount=type=cache,target=/c echo {} >> /c/x; echo ok > /cm",
            random.of(TEXTS).trim()
        ),
        4 => format!("RUN --network=none {what}"),
        5 => format!("RUN <<E\necho {}\n{what}\nE", random.of(&["1", "2", "$A"])),
        6 => "RUN [\"/bin/sh\", \"-c\", \"echo $A > /js; true\"]".to_owned(),
        7 => "RUN --mount=type=bind,from=other,target=/m,rw echo w > /m/new; ls -a /m > /lo; true".to_owned(),
        _ => format!("RUN {what}"),
    }
}
