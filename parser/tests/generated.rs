//! Generated and damaged files: no panic, no hang, bounded memory, and what is printed parses to the same.
//!
//! A run is bounded in time. `RBUILD_GENERATED_FILES=1000000` in the environment asks for that many files instead,
//! however long they take, and prints what they cost.

#![allow(clippy::expect_used, reason = "a missing fixture is a failed test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rbuild_parser::expand::Expander;
use rbuild_parser::mount::Mount;
use rbuild_parser::{Dockerfile, Instruction, Source, parse};

/// Pieces that files are put together from.
const PIECES: &[&str] = &[
    "FROM scratch",
    "FROM --platform=$P a AS b",
    "ARG A=1",
    "ENV A=b C=\"d e\"",
    "ENV A b",
    "LABEL 'a b'=c",
    "RUN echo $x",
    "RUN <<E",
    "RUN <<-'E F' cat",
    "COPY <<E a /x/",
    "COPY --link --chown=\"a b\" x y",
    "ADD --exclude=*.x [\"a\",\"b\"]",
    "ONBUILD RUN <<E",
    "ONBUILD COPY a b",
    "HEALTHCHECK --interval=1s CMD [\"a\"]",
    "EXPOSE 80 9-10/udp",
    "VOLUME a b",
    "SHELL [\"/bin/sh\"]",
    "CMD [\"a\", 1]",
    "STOPSIGNAL 9",
    "USER a",
    "WORKDIR /a b",
    "# comment",
    "#",
    "# escape=`",
    "# syntax=x",
    "E",
    "\tE",
    "E F",
    "\n",
    "\n",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\\\n",
    "`\n",
    "\\",
    "`",
    " ",
    "\t",
    "\u{b}",
    "\u{a0}",
    "é",
    "\"",
    "'",
    "$",
    "${",
    "}",
    ":-",
    "<<",
    "--",
    "[",
    "]",
    "\u{feff}",
    "\0",
    "x",
];

/// A small generator with a fixed seed: the same files on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn file(&mut self) -> Vec<u8> {
        let mut text = String::from("FROM scratch\n");
        for _ in 0..self.below(20) {
            text.push_str(PIECES[self.below(PIECES.len())]);
            if self.below(3) > 0 {
                text.push('\n');
            }
        }
        let mut bytes = text.into_bytes();
        if self.below(8) == 0 {
            let at = self.below(bytes.len());
            bytes[at] = self.below(256) as u8;
        }
        bytes
    }

    /// A file of `corpus` with a few damages.
    fn damaged(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(40) + 1);
            match self.below(6) {
                0 => drop(bytes.drain(at..end)),
                1 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                2 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len() + 1);
                    let until = from + self.below((other.len() - from).min(200) + 1);
                    bytes.splice(at..end, other[from..until].iter().copied());
                }
                3 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(at..at, piece.bytes());
                }
            }
        }
        bytes
    }
}

/// The Dockerfiles of the repository's test data and of the fuzzer's corpus.
fn corpus() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("testdata"), root.join("fuzz/corpus/parse")];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of test data") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if folder.ends_with("parse") || path.file_name().is_some_and(|name| name == "Dockerfile") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: &_| fs::read(path).expect("a file of test data");
    let files: Vec<Vec<u8>> = paths.iter().map(read).collect();
    assert!(files.len() > 10, "{} files", files.len());
    files
}

/// The most memory that this process ever had, in bytes; 0 where the kernel does not say.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// What a file says, without places.
fn meaning(file: &Dockerfile) -> Vec<String> {
    let mut said = vec![format!("{:?}", file.directives)];
    said.extend(
        file.global_args
            .iter()
            .map(|arg| format!("{:?} {:?}", arg.value, arg.comments)),
    );
    for stage in &file.stages {
        said.push(format!("{:?} {:?}", stage.from.value, stage.from.comments));
        for place in &stage.instructions {
            let mut value = place.value.clone();
            match &mut value {
                Instruction::Run(run) => run
                    .heredocs
                    .iter_mut()
                    .for_each(|it| it.span = Default::default()),
                Instruction::Copy(rbuild_parser::Copy { sources, .. })
                | Instruction::Add(rbuild_parser::Add { sources, .. }) => {
                    for source in sources {
                        if let Source::Heredoc(heredoc) = source {
                            heredoc.span = Default::default();
                        }
                    }
                }
                _ => {}
            }
            said.push(format!("{value:?} {:?}", place.comments));
        }
    }
    said
}

/// How many files were made, how many of them parse, and the longest that one took.
#[derive(Debug, Default)]
struct Figures {
    files: usize,
    parsed: usize,
    slowest: Duration,
}

/// Parses, prints and parses again.
fn round_trip(bytes: &[u8], figures: &mut Figures) {
    let started = Instant::now();
    let parsed = parse(bytes);
    figures.slowest = figures.slowest.max(started.elapsed());
    figures.files += 1;
    let Ok(file) = parsed else { return };
    figures.parsed += 1;
    let printed = file.to_string();
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let again =
        parse(printed.as_bytes()).unwrap_or_else(|errors| panic!("{:?}\n{printed:?}\n{errors:?}", shown()));
    assert_eq!(meaning(&file), meaning(&again), "{:?}\n{printed:?}", shown());
    assert_eq!(again.to_string(), printed);
}

#[test]
fn printed_files_parse_to_the_same() {
    let asked: Option<usize> = std::env::var("RBUILD_GENERATED_FILES")
        .ok()
        .and_then(|files| files.parse().ok());
    let (most, longest) = match asked {
        Some(files) => (files, Duration::from_secs(1 << 20)),
        None => (50_000, Duration::from_secs(5)),
    };
    let corpus = corpus();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let memory = peak_memory();
    let started = Instant::now();
    let (mut generated, mut damaged) = (Figures::default(), Figures::default());
    while generated.files + damaged.files < most && started.elapsed() < longest {
        round_trip(&random.file(), &mut generated);
        round_trip(&random.damaged(&corpus), &mut damaged);
    }
    let grown = peak_memory() - memory;
    if asked.is_some() {
        println!(
            "{generated:?}, {damaged:?}, {:?} in all, {grown} bytes more at most",
            started.elapsed()
        );
    }
    for figures in [generated, damaged] {
        assert!(figures.parsed > figures.files / 50, "{figures:?}");
        // A busy machine may stop the test for a while; the limit for a file is a tenth of this.
        assert!(figures.slowest < Duration::from_secs(1), "{figures:?}");
    }
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[test]
fn words_and_mounts_of_any_kind() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let started = Instant::now();
    for _ in 0..50_000 {
        let length = random.below(12);
        let word: String = (0..length).map(|_| PIECES[random.below(PIECES.len())]).collect();
        for escape in ['\\', '`'] {
            let expander = Expander::new(escape);
            let lookup = |name: &str| (name.len() % 2 == 1).then(|| name.repeat(2));
            let _ = expander.word(&word, &lookup);
            let _ = expander.words(&word, &lookup);
            let _ = expander.heredoc(&word, &lookup);
        }
        let _ = Mount::parse(&word.replace(' ', ","), &mut |value| Ok(value.to_owned()));
        if started.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
}
