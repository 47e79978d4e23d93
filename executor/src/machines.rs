//! Programs for other machines: what the kernel and its registered emulators (binfmt_misc) run here.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, OFlags};

/// Where the kernel lists what is registered.
const DIRECTORY: &str = "/proc/sys/fs/binfmt_misc";

/// Who runs the programs of an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// The machine itself.
    Native,
    /// The machine, as its own 32-bit predecessor.
    Compatible,
    /// A program that stands ready whatever the root file system is; its name when it is known.
    Emulator(Option<PathBuf>),
    /// A program that is looked up in the root file system of the step, because it was registered without flag F.
    EmulatorInRoot(PathBuf),
    /// Nobody.
    Missing,
}

/// The architecture of this machine by Go's name.
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Who runs programs of `architecture` (Go's name) here. What is not listed is found out by running a program of a few bytes.
pub fn emulation(architecture: &str) -> Emulation {
    let native = native_architecture();
    if architecture == native {
        return Emulation::Native;
    }
    let Some(machine) = MACHINES.iter().find(|machine| machine.name == architecture) else {
        return Emulation::Missing;
    };
    let program = machine.program();
    let matching = registrations()
        .into_iter()
        .find(|one| one.enabled && one.matches(&program));
    match matching {
        Some(one) if one.flags.contains('F') => Emulation::Emulator(Some(one.interpreter)),
        Some(one) => Emulation::EmulatorInRoot(one.interpreter),
        None if !runs(&program) => Emulation::Missing,
        None if matches!((native, architecture), ("amd64", "386") | ("arm64", "arm")) => {
            Emulation::Compatible
        }
        None => Emulation::Emulator(None),
    }
}

/// The architectures that [`emulation`] knows.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    MACHINES.iter().map(|machine| machine.name)
}

/// A program of this machine that ends at once with 0; empty on a machine that is not known.
pub(crate) fn native_program() -> Vec<u8> {
    let native = native_architecture();
    let machine = MACHINES.iter().find(|machine| machine.name == native);
    machine.map(Machine::program).unwrap_or_default()
}

/// An entry of binfmt_misc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub enabled: bool,
    /// The emulator.
    pub interpreter: PathBuf,
    /// Letters: with F the emulator was opened when it was registered.
    pub flags: String,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

/// What is registered, as far as it can be seen: a container mostly does not see the list that is in force.
pub fn registrations() -> Vec<Registration> {
    let switched_on = std::fs::read_to_string(Path::new(DIRECTORY).join("status"));
    if !switched_on.is_ok_and(|text| text.trim() == "enabled") {
        return Vec::new();
    }
    let entries = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let mut found: Vec<Registration> = names
        .filter(|name| name != "register" && name != "status")
        .filter_map(|name| read(&name))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn read(name: &OsStr) -> Option<Registration> {
    let text = std::fs::read_to_string(Path::new(DIRECTORY).join(name)).ok()?;
    Some(Registration::parse(&name.to_string_lossy(), &text))
}

impl Registration {
    fn parse(name: &str, text: &str) -> Registration {
        let mut found = Registration {
            name: name.to_owned(),
            ..Registration::default()
        };
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "enabled" => found.enabled = true,
                "interpreter" => found.interpreter = value.into(),
                "flags:" => found.flags = value.trim().to_owned(),
                "offset" => found.offset = value.parse().unwrap_or(0),
                "magic" => found.magic = bytes(value),
                "mask" => found.mask = bytes(value),
                _ => {}
            }
        }
        found
    }

    /// Whether it is for files that begin like this. One by name (`extension`) is for none.
    fn matches(&self, head: &[u8]) -> bool {
        let Some(part) = head.get(self.offset..self.offset + self.magic.len()) else {
            return false;
        };
        let mask = self.mask.iter().copied().chain(std::iter::repeat(0xff));
        let mut compared = part.iter().zip(&self.magic).zip(mask);
        !self.magic.is_empty() && compared.all(|((a, b), mask)| a & mask == b & mask)
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| d as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// How programs of an architecture look, and one that exits with 0.
struct Machine {
    name: &'static str,
    is_64_bit: bool,
    is_big_endian: bool,
    number: u16,
    flags: u32,
    code: Code,
}

enum Code {
    Bytes(&'static [u8]),
    Words(&'static [u32]),
}

const fn machine(name: &'static str, number: u16, code: Code) -> Machine {
    Machine {
        name,
        is_64_bit: true,
        is_big_endian: false,
        number,
        flags: 0,
        code,
    }
}

const MACHINES: [Machine; 9] = [
    machine(
        "amd64",
        62,
        Code::Bytes(&[0xbf, 0, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]),
    ),
    Machine {
        is_64_bit: false,
        ..machine("386", 3, Code::Bytes(&[0x31, 0xdb, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]))
    },
    machine(
        "arm64",
        183,
        Code::Words(&[0xd280_0000, 0xd280_0ba8, 0xd400_0001]),
    ),
    Machine {
        is_64_bit: false,
        flags: 0x0500_0000,
        ..machine("arm", 40, Code::Words(&[0xe3a0_0000, 0xe3a0_7001, 0xef00_0000]))
    },
    machine(
        "riscv64",
        243,
        Code::Words(&[0x0000_0513, 0x05d0_0893, 0x0000_0073]),
    ),
    Machine {
        flags: 2,
        ..machine(
            "ppc64le",
            21,
            Code::Words(&[0x3800_0001, 0x3860_0000, 0x4400_0002]),
        )
    },
    Machine {
        is_big_endian: true,
        ..machine("s390x", 22, Code::Bytes(&[0xa7, 0x29, 0, 0, 0x0a, 0x01]))
    },
    machine(
        "loong64",
        258,
        Code::Words(&[0x0380_0004, 0x0381_740b, 0x002b_0000]),
    ),
    Machine {
        flags: 0x8000_0000,
        ..machine(
            "mips64le",
            8,
            Code::Words(&[0x2402_13c2, 0x2404_0000, 0x0000_000c]),
        )
    },
];

impl Machine {
    /// An ELF file of one segment.
    fn program(&self) -> Vec<u8> {
        const ADDRESS: u64 = 0x40_0000;
        let (header, segment) = if self.is_64_bit { (64, 56) } else { (52, 32) };
        let start = header + segment;
        let mut file = Vec::new();
        let class = if self.is_64_bit { 2 } else { 1 };
        let order = if self.is_big_endian { 2 } else { 1 };
        file.extend([0x7f, b'E', b'L', b'F', class, order, 1, 0]);
        file.resize(16, 0);
        let code = match self.code {
            Code::Bytes(bytes) => bytes.to_vec(),
            Code::Words(words) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        let length = start + code.len() as u64;
        // Type, machine, version, entry, program headers, section headers, flags, sizes.
        self.put(&mut file, 2, 2);
        self.put(&mut file, self.number.into(), 2);
        self.put(&mut file, 1, 4);
        self.word(&mut file, ADDRESS + start);
        self.word(&mut file, header);
        self.word(&mut file, 0);
        self.put(&mut file, self.flags.into(), 4);
        for value in [header, segment, 1, 0, 0, 0] {
            self.put(&mut file, value, 2);
        }
        // The segment: PT_LOAD, readable and executable (5), which stands after the type or near the end.
        self.put(&mut file, 1, 4);
        if self.is_64_bit {
            self.put(&mut file, 5, 4);
        }
        for value in [0, ADDRESS, ADDRESS, length, length] {
            self.word(&mut file, value);
        }
        if !self.is_64_bit {
            self.put(&mut file, 5, 4);
        }
        self.word(&mut file, 0x1_0000);
        file.extend(code);
        file
    }

    fn word(&self, file: &mut Vec<u8>, value: u64) {
        self.put(file, value, if self.is_64_bit { 8 } else { 4 });
    }

    fn put(&self, file: &mut Vec<u8>, value: u64, size: usize) {
        if self.is_big_endian {
            file.extend(&value.to_be_bytes()[8 - size..]);
        } else {
            file.extend(&value.to_le_bytes()[..size]);
        }
    }
}

/// Whether the kernel starts this program and it exits with 0.
fn runs(program: &[u8]) -> bool {
    let Ok(file) = rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC) else {
        return false;
    };
    let mut file = std::fs::File::from(file);
    if file.write_all(program).is_err() {
        return false;
    }
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Open across exec: an emulator opens the file by its name.
    let Ok(readable) = rustix::fs::open(&name, OFlags::RDONLY, Mode::empty()) else {
        return false;
    };
    // A file that is open for writing cannot be executed.
    drop(file);
    let status = Command::new(format!("/proc/self/fd/{}", readable.as_raw_fd()))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/riscv64-binfmt-P\nflags: POF\noffset 0\n\
        magic 7f454c460201010000000000000000000200f300\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn registrations_are_read() {
        let found = Registration::parse("qemu-riscv64", QEMU);
        assert!(found.enabled);
        assert_eq!(
            (found.interpreter.to_str().unwrap(), found.flags.as_str()),
            ("/usr/libexec/qemu-binfmt/riscv64-binfmt-P", "POF")
        );
        let program = |name: &str| {
            let machine = MACHINES.iter().find(|machine| machine.name == name);
            machine.unwrap().program()
        };
        assert!(found.matches(&program("riscv64")));
        for other in architectures().filter(|name| *name != "riscv64") {
            assert!(!found.matches(&program(other)), "{other}");
        }
        let by_name = Registration::parse(
            "jar",
            "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n",
        );
        assert!(!by_name.matches(&program("amd64")));
        assert!(!Registration::parse("x", "disabled\n").enabled);
    }

    #[test]
    fn programs_of_this_machine_run() {
        let native = native_architecture();
        assert_eq!(emulation(native), Emulation::Native);
        assert_eq!(emulation("wasm"), Emulation::Missing);
        let machine = MACHINES.iter().find(|machine| machine.name == native).unwrap();
        assert!(runs(&machine.program()));
        assert!(!runs(b"\x7fELF"));
    }

    #[test]
    fn programs_of_other_machines_run_where_their_emulators_do() {
        for machine in &MACHINES {
            let name = match machine.name {
                "386" => "i386",
                "arm64" => "aarch64",
                "amd64" => "x86_64",
                "loong64" => "loongarch64",
                "mips64le" => "mips64el",
                other => other,
            };
            let emulator = format!("/usr/bin/qemu-{name}-static");
            if !Path::new(&emulator).exists() {
                eprintln!("skipped: {emulator} (package qemu-user-static) is not installed");
                continue;
            }
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            let mut file = tempfile::Builder::new()
                .permissions(executable)
                .tempfile()
                .unwrap();
            file.write_all(&machine.program()).unwrap();
            let status = Command::new(&emulator).arg(file.path()).status().unwrap();
            assert!(status.success(), "{name}: {status}");
        }
    }
}
