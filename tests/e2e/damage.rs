use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::{Env, Run};

/// A seeded generator (xorshift), so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Flip,
    Truncate(u64),
    Halve,
    Shorten,
    Remove,
}

const DOCKERFILE: &str = "FROM scratch AS base\nCOPY busybox /bin/\nCOPY bin /bin/\n\
    FROM base AS tools\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"seq 3000 > /numbers; mkdir -p /d/e; echo x > /d/e/x; ln /numbers /second\"]\n\
    FROM base\nARG turn=0\nCOPY in /in\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo first > /first\"]\n\
    RUN --mount=type=bind,from=tools,target=/t [\"/bin/busybox\", \"sh\", \"-c\", \"md5sum /bin/* /t/numbers /t/d/e/x > /sums; echo $turn >> /sums\"]\n\
    COPY --from=tools /d /d\n";

/// A store with an image and cache, to be damaged in copies.
struct Victim {
    env: Env,
    pristine: PathBuf,
    /// Archives of the image as it was built, with `turn` 0 and 1, times set.
    whole: [Vec<u8>; 2],
    saved: Vec<u8>,
}

impl Victim {
    fn new() -> Option<Self> {
        let Some(env) = Env::root() else {
            eprintln!("skipped: only root can damage what belongs to others");
            return None;
        };
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find(|path| Path::new(path).exists());
        env.write("c/busybox", fs::read(busybox.unwrap()).unwrap());
        fs::set_permissions(
            env.path("c/busybox"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        for applet in ["seq", "mkdir", "ln", "md5sum"] {
            fs::create_dir_all(env.path("c/bin")).unwrap();
            std::os::unix::fs::symlink("busybox", env.path("c/bin").join(applet)).unwrap();
        }
        env.write("c/in", "in\n");
        env.write("c/Dockerfile", DOCKERFILE);
        // Times of the context are older than a clock tick, so that digests of its files are remembered.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut victim = Self {
            pristine: env.path("pristine"),
            env,
            whole: [Vec::new(), Vec::new()],
            saved: Vec::new(),
        };
        victim.build("0").ok();
        victim.env.rbuild(["save", "-o", victim.out(), "k"]).ok();
        victim.saved = fs::read(victim.env.path("out.tar")).unwrap();
        fs::rename(victim.env.store(), &victim.pristine).unwrap();
        for turn in [1, 0] {
            victim.fresh();
            victim.export(&turn.to_string()).ok();
            victim.whole[turn] = fs::read(victim.env.path("out.tar")).unwrap();
        }
        Some(victim)
    }

    fn out(&self) -> &'static str {
        // Relative to the folder in which commands run.
        "out.tar"
    }

    fn build(&self, turn: &str) -> Run {
        let argument = format!("turn={turn}");
        self.env
            .rbuild(["build", "-q", "--build-arg", &argument, "-t", "k", "c"])
    }

    fn export(&self, turn: &str) -> Run {
        let _ = fs::remove_file(self.env.path("out.tar"));
        let argument = format!("turn={turn}");
        let mut command = self
            .env
            .rbuild_command(["build", "-q", "--build-arg", &argument, "-o"]);
        command.args(["type=tar,dest=out.tar,rewrite-timestamp=true", "c"]);
        command.env("SOURCE_DATE_EPOCH", "1000000000");
        command.output().unwrap().into()
    }

    /// The store as it was.
    fn fresh(&self) {
        let _ = fs::remove_dir_all(self.env.store());
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&self.pristine)
            .arg(self.env.store())
            .status();
        assert!(copied.unwrap().success());
    }

    /// Files of the store that have bytes, and how long they are.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut pending = vec![self.pristine.clone()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_file() && entry.metadata().unwrap().len() > 0 {
                    let path = entry.path().strip_prefix(&self.pristine).unwrap().to_owned();
                    files.push((path, entry.metadata().unwrap().len()));
                }
            }
        }
        files.sort();
        files
    }

    /// One turn: a file is harmed, looked for, and built upon.
    fn harm(&self, dice: &mut Dice, harm: Harm) {
        self.fresh();
        let files = self.files();
        let (name, size) = &files[usize::try_from(dice.throw(files.len() as u64)).unwrap()];
        let path = self.env.store().join(name);
        let mut what = format!("{harm:?} {}", name.display());
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        match harm {
            Harm::Flip => {
                let bit = dice.throw(size * 8);
                let mut byte = [0];
                file.read_exact_at(&mut byte, bit / 8).unwrap();
                byte[0] ^= 1 << (bit % 8);
                file.write_all_at(&byte, bit / 8).unwrap();
                what += &format!(", bit {bit} of {size} bytes");
            }
            Harm::Truncate(length) => file.set_len(length.min(size - 1)).unwrap(),
            Harm::Halve => file.set_len(size / 2).unwrap(),
            Harm::Shorten => file.set_len(size - 1).unwrap(),
            Harm::Remove => fs::remove_file(&path).unwrap(),
        }
        drop(file);

        let names = |run: Run| run.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let listed = names(
            self.env
                .rbuild(["images", "--format", "{{.Repository}} {{.Digest}}"]),
        );
        let check = self.env.rbuild(["store", "check", "--read-data"]);
        let found = match check.code {
            Some(0) => false,
            Some(1) => true,
            _ => panic!("{what}: {check:?}"),
        };
        assert!(found || is_nothing_lost(name, harm), "{what}: {check:?}");
        if !found {
            let fine = self.env.rbuild(["save", "-o", self.out(), "k"]).ok();
            assert_eq!(
                fs::read(self.env.path("out.tar")).unwrap(),
                self.saved,
                "{what}: {fine:?}"
            );
        }
        match dice.throw(3) {
            0 => {
                let repair = self.env.rbuild(["store", "check", "--read-data", "--repair"]);
                assert_eq!(repair.code, Some(if found { 2 } else { 0 }), "{what}: {repair:?}");
                let again = self.env.rbuild(["store", "check", "--read-data"]);
                assert_eq!(again.code, Some(0), "{what}: {repair:?} {again:?}");
                self.builds_right(&what, "0", true);
            }
            1 => {
                // What is in the store is the image, or cannot be read.
                if listed.iter().any(|line| line.starts_with("k ")) {
                    let saved = self.env.rbuild(["save", "-o", self.out(), "k"]);
                    if saved.code == Some(0) {
                        assert_eq!(fs::read(self.env.path("out.tar")).unwrap(), self.saved, "{what}");
                    } else {
                        assert!(saved.stderr.contains("error"), "{what}: {saved:?}");
                    }
                }
                self.builds_right(&what, "0", false);
            }
            _ => self.builds_right(&what, "1", false),
        }
    }

    /// The next build gives the right image, or says why it cannot; then the one after that does.
    fn builds_right(&self, what: &str, turn: &str, repaired: bool) {
        let mut first = self.export(turn);
        if first.code != Some(0) {
            assert!(!repaired, "{what}: {first:?}");
            assert!(
                first.stderr.contains("error") || first.stderr.contains("ERROR"),
                "{what}: {first:?}"
            );
            // A list of images that cannot be read stays until somebody decides.
            if first.stderr.contains("index.json") {
                self.env.rbuild(["store", "check", "--repair"]).fails(2);
            }
            first = self.export(turn);
        }
        let first = first.ok();
        let turn: usize = turn.parse().unwrap();
        let image = fs::read(self.env.path("out.tar")).unwrap();
        assert!(image == self.whole[turn], "{what}: another image, {first:?}");
    }
}

/// Whether losing this changes nothing: it is made again, or was of no use.
fn is_nothing_lost(name: &Path, harm: Harm) -> bool {
    let text = name.to_str().unwrap();
    let file = name.file_name().unwrap().to_str().unwrap();
    // The boot in which a tree was made: another one has it looked at again.
    let mark = file.starts_with("boot");
    // Records of what was built, which nothing leads to.
    let loose = [
        "files/",
        "builds/",
        "index.json.bak",
        "index.seen",
        "oci-layout",
        "evictions",
    ];
    // The list of files of a tree that has no other form.
    let listed_again = file == "index";
    mark || harm == Harm::Remove && (listed_again || loose.iter().any(|prefix| text.starts_with(prefix)))
}

#[test]
fn no_damage_gives_another_image() {
    let Some(victim) = Victim::new() else { return };
    let number = |name: &str, usual: u64| {
        let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
        given.unwrap_or(usual)
    };
    let seed = number("RBUILD_SEED", 6);
    let flips = number("RBUILD_DAMAGE", 40);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
    for _ in 0..flips {
        victim.harm(&mut dice, Harm::Flip);
    }
    let others = [
        Harm::Truncate(0),
        Harm::Truncate(1),
        Harm::Halve,
        Harm::Shorten,
        Harm::Remove,
    ];
    for harm in others.iter().cycle().take(usize::try_from(flips / 4).unwrap()) {
        victim.harm(&mut dice, *harm);
    }
}
