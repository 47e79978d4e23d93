//! Generated and damaged files: no panic, no hang, and what is printed parses to the same.

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

#[test]
fn printed_files_parse_to_the_same() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let started = Instant::now();
    let (mut files, mut parsed) = (0, 0);
    while files < 50_000 && started.elapsed() < Duration::from_secs(5) {
        files += 1;
        let bytes = random.file();
        let Ok(file) = parse(&bytes) else { continue };
        parsed += 1;
        let printed = file.to_string();
        let again = parse(printed.as_bytes()).unwrap_or_else(|errors| {
            panic!("{:?}\n{printed:?}\n{errors:?}", String::from_utf8_lossy(&bytes))
        });
        assert_eq!(
            meaning(&file),
            meaning(&again),
            "{:?}\n{printed:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(again.to_string(), printed);
    }
    assert!(parsed > files / 50, "{parsed} of {files} files parse");
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
