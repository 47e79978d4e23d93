use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::debian;
use crate::env::busybox;

/// One directory of the corpus.
pub struct Case {
    pub name: String,
    pub directory: PathBuf,
    dockerfile: String,
}

/// How a build ended.
pub struct Outcome {
    pub time: Duration,
    /// What was printed, when the build failed.
    pub failure: Option<String>,
    /// What the steps printed behind `= `, sorted.
    pub seen: Vec<String>,
    /// The diff ids of the image.
    pub layers: Vec<String>,
}

/// The base images, as archives of root file systems.
pub struct Bases {
    pub busybox: PathBuf,
    pub debian: PathBuf,
    /// What this machine trusts: it may stand behind a gateway that speaks TLS for the registries.
    pub ca: PathBuf,
}

/// Cases that are built where nothing else was asked for: those without network, which cost a second or two.
const QUICK: [&str; 12] = [
    "apt-dbus",
    "capabilities",
    "copy-chown",
    "hardlinks",
    "kinds",
    "names",
    "preserve",
    "remade",
    "setuid",
    "stages",
    "user",
    "whiteouts",
];

/// The cases that were asked for.
pub fn selected() -> Vec<Case> {
    let wanted = std::env::var("RBUILD_CORPUS").unwrap_or_default();
    let names: BTreeSet<&str> = match wanted.as_str() {
        "" => QUICK.into(),
        "all" => BTreeSet::new(),
        names => names.split(',').collect(),
    };
    let mut cases: Vec<Case> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(Case::read)
        .filter(|case| names.is_empty() || names.contains(case.name.as_str()))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    for name in names {
        assert!(
            cases.iter().any(|case| case.name == name),
            "there is no case {name}"
        );
    }
    cases
}

/// Tier and case of what is known not to work, from the file `exceptions`: `TIER CASE REASON`.
pub fn exceptions() -> Vec<(String, String)> {
    let text = fs::read_to_string(corpus().join("exceptions")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (tier, case) = (words.next().unwrap(), words.next().expect(line));
            assert!(words.next().is_some(), "an exception without a reason: {line}");
            (tier.to_owned(), case.to_owned())
        })
        .collect()
}

fn corpus() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/corpus"))
}

impl Case {
    fn read(directory: PathBuf) -> Self {
        Self {
            name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
            dockerfile: fs::read_to_string(directory.join("Dockerfile")).unwrap(),
            directory,
        }
    }

    /// Whether nothing of it comes from the network: packages are of another day tomorrow.
    pub fn is_deterministic(&self) -> bool {
        !self.dockerfile.contains("apt-get")
    }

    /// What is wrong with a build of this case.
    pub fn wrong(&self, outcome: &Outcome) -> Option<String> {
        if let Some(failure) = &outcome.failure {
            return Some(format!("failed:\n{failure}"));
        }
        let expect = fs::read_to_string(self.directory.join("expect")).unwrap_or_default();
        let mut expected: Vec<&str> = expect.lines().collect();
        expected.sort_unstable();
        let seen: Vec<&str> = outcome.seen.iter().map(String::as_str).collect();
        let missing = expected.iter().filter(|line| !seen.contains(line));
        let surplus = seen.iter().filter(|line| !expected.contains(line));
        let lines: Vec<String> = missing
            .map(|line| format!("- {line}"))
            .chain(surplus.map(|line| format!("+ {line}")))
            .collect();
        (expected != seen).then(|| {
            format!(
                "steps see other things (- expected, + seen):\n{}",
                lines.join("\n")
            )
        })
    }
}

impl Bases {
    /// The bases; `None`, with a note, where they cannot be made.
    pub fn find() -> Option<Self> {
        let debian = debian::base()?;
        Some(Self {
            busybox: busybox(),
            debian,
            ca: trusted(),
        })
    }
}

/// The certificates that this machine's programs trust.
fn trusted() -> PathBuf {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
    named.filter(|file| file.is_file()).unwrap_or(usual)
}

/// The lines that steps printed behind `= `, out of plain progress.
pub fn seen(progress: &str) -> Vec<String> {
    let mut lines: Vec<String> = progress
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix('#')?;
            let (vertex, rest) = rest.split_once(' ')?;
            let (time, text) = rest.split_once(' ')?;
            let numbers = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let text = text.strip_prefix("= ")?;
            (numbers(vertex) && numbers(time)).then(|| text.to_owned())
        })
        .collect();
    lines.sort();
    lines
}

/// Removes a directory that may hold anything, with everything below.
pub fn remove(directory: &Path) {
    let removed = Command::new("rm").arg("-rf").arg(directory).status();
    assert!(removed.unwrap().success(), "{}", directory.display());
}
