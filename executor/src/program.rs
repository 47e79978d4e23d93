//! Which file a command name means, and why it could not be executed.
//!
//! Runs inside the root, as the step's user, with the words that runc uses.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, accessat, stat};
use rustix::io::Errno;

use crate::Error;

/// The file to execute and its arguments.
pub(crate) fn locate(args: &[String], env: &[String]) -> Result<(CString, Vec<CString>), Error> {
    let nul = |_| Error::Start("the command contains a NUL byte".to_owned());
    let Some(name) = args.first() else {
        return Err(Error::Start("no command specified".to_owned()));
    };
    let path = find(name, env)?;
    let args = args
        .iter()
        .map(|a| CString::new(a.as_str()).map_err(nul))
        .collect::<Result<_, _>>()?;
    Ok((CString::new(path).map_err(nul)?, args))
}

fn find(name: &str, env: &[String]) -> Result<String, Error> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(Errno::NOENT) => Err(Error::Start(format!(
                "exec: {name:?}: stat {name}: no such file or directory"
            ))),
            Err(e) => Err(Error::Start(format!("exec: {name:?}: {}", words(e)))),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or("");
    let mut denied = false;
    for directory in path.split(':').filter(|d| d.starts_with('/')) {
        let candidate = format!("{}/{name}", directory.trim_end_matches('/'));
        match executable(&candidate) {
            Ok(()) if !name.is_empty() => return Ok(candidate),
            Err(Errno::ACCESS) => denied = true,
            _ => {}
        }
    }
    let why = if denied {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    };
    Err(Error::Start(format!("exec: {name:?}: {why}")))
}

/// How many interpreters the kernel follows, one naming the next.
const MAX_INTERPRETERS: usize = 5;

/// Refuses a command that leads to the builder's own program: until exec, `/proc/self/exe` is that, and a process that
/// runs it hands it to the step, which could write to it (CVE-2019-5736).
pub(crate) fn refuse_builder(path: &CString) -> Result<(), Error> {
    let Some(builder) = Place::of(Path::new("/proc/self/exe")) else {
        return Ok(());
    };
    let mut program = Path::new(OsStr::from_bytes(path.as_bytes())).to_owned();
    for _ in 0..=MAX_INTERPRETERS {
        if Place::of(&program).is_some_and(|place| place == builder) {
            let shown = path.to_string_lossy();
            return Err(Error::Start(format!(
                "exec {shown}: it leads to the builder's own program"
            )));
        }
        // A file that the step may not read is no script that it can run for others to see.
        let Some(interpreter) = head(&program).as_deref().and_then(interpreter) else {
            return Ok(());
        };
        program = interpreter;
    }
    Ok(())
}

/// A file by device, number and mount: a copy or a bind mount of the builder's program is another place.
#[derive(PartialEq)]
struct Place(u32, u32, u64, u64);

impl Place {
    fn of(path: &Path) -> Option<Place> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(CWD, path, AtFlags::empty(), wanted).ok()?;
        Some(Place(
            found.stx_dev_major,
            found.stx_dev_minor,
            found.stx_ino,
            found.stx_mnt_id,
        ))
    }
}

/// What stands behind `#!`.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| *byte == b' ' || *byte == b'\t');
    let name = words.find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

fn executable(path: &str) -> rustix::io::Result<()> {
    if FileType::from_raw_mode(stat(path)?.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// Why `execve` refused a file that exists.
pub(crate) fn explain(path: &CString, error: io::Error) -> Error {
    let shown = path.to_string_lossy();
    let errno = Errno::from_io_error(&error);
    let hint = match (errno, head(Path::new(OsStr::from_bytes(path.as_bytes())))) {
        (Some(Errno::NOEXEC), Some(head)) => format_hint(&head),
        (Some(Errno::NOENT), Some(head)) => interpreter_hint(&head),
        _ => None,
    };
    let what = errno.map_or_else(|| error.to_string(), |e| words(e).to_owned());
    let hint = hint.map(|h| format!(" ({h})")).unwrap_or_default();
    Error::Start(format!("exec {shown}: {what}{hint}"))
}

fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "no such file or directory",
        Errno::ACCESS => "permission denied",
        Errno::PERM => "operation not permitted",
        Errno::NOEXEC => "exec format error",
        Errno::ISDIR => "is a directory",
        Errno::TOOBIG => "argument list too long",
        Errno::NOMEM => "cannot allocate memory",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::NOTDIR => "not a directory",
        _ => "input/output error",
    }
}

fn head(path: &Path) -> Option<Vec<u8>> {
    // A pipe is no script, and nobody may ever write to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut head = Vec::new();
    std::fs::File::from(file).take(256).read_to_end(&mut head).ok()?;
    Some(head)
}

fn format_hint(head: &[u8]) -> Option<String> {
    if let [0x7f, b'E', b'L', b'F', class, order, ..] = head {
        let machine = head.get(18..20)?;
        let machine = match order {
            2 => u16::from_be_bytes([machine[0], machine[1]]),
            _ => u16::from_le_bytes([machine[0], machine[1]]),
        };
        let name = match (machine, class) {
            (3, _) => "386",
            (8, _) => "mips",
            (20, _) => "ppc",
            (21, _) => "ppc64le",
            (22, _) => "s390x",
            (40, _) => "arm",
            (62, 1) => "x32",
            (62, _) => "amd64",
            (183, _) => "arm64",
            (243, _) => "riscv64",
            (258, _) => "loong64",
            _ => "another machine",
        };
        let here = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        if name == here {
            return Some("the file is damaged".to_owned());
        }
        return Some(format!("the program is for {name}, this machine is {here}"));
    }
    if head.is_empty() {
        return Some("the file is empty".to_owned());
    }
    (!head.starts_with(b"#!")).then(|| "neither a program nor a script with a #! line".to_owned())
}

fn interpreter_hint(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|b| *b == b'\n').next()?).into_owned();
        let dos = if line.ends_with('\r') {
            "; the line ends in a carriage return"
        } else {
            ""
        };
        let interpreter = line.split_whitespace().next()?;
        return Some(format!("its interpreter {interpreter} is not in the image{dos}"));
    }
    head.starts_with(b"\x7fELF")
        .then(|| "its dynamic loader is not in the image".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters() {
        let name = |head: &str| interpreter(head.as_bytes()).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(name("#!/bin/sh\necho").as_deref(), Some("/bin/sh"));
        assert_eq!(
            name("#! \t/proc/self/exe --version").as_deref(),
            Some("/proc/self/exe")
        );
        assert_eq!(name("#!proc/self/exe\tx").as_deref(), Some("proc/self/exe"));
        assert_eq!(name("#!\n/bin/sh"), None);
        assert_eq!(name("\x7fELF"), None);
    }

    #[test]
    fn the_builder_is_known_by_every_name() {
        let refused = |path: &str| refuse_builder(&CString::new(path).unwrap()).is_err();
        assert!(refused("/proc/self/exe") && refused("/proc/thread-self/exe"));
        assert!(refused(std::env::current_exe().unwrap().to_str().unwrap()));
        assert!(!refused("/bin/sh") && !refused("/no/such/file"));
    }

    #[test]
    fn hints_name_the_cause() {
        let elf = |machine: u8| {
            let mut head = vec![0u8; 64];
            head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
            head[18] = machine;
            head
        };
        let foreign = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        assert!(
            format_hint(&elf(foreign))
                .unwrap()
                .starts_with("the program is for a")
        );
        assert_eq!(format_hint(b"").as_deref(), Some("the file is empty"));
        assert_eq!(
            format_hint(b"echo hi\n").as_deref(),
            Some("neither a program nor a script with a #! line")
        );
        assert_eq!(
            interpreter_hint(b"#!/bin/bash\r\necho").as_deref(),
            Some("its interpreter /bin/bash is not in the image; the line ends in a carriage return")
        );
        assert_eq!(
            interpreter_hint(&elf(62)).as_deref(),
            Some("its dynamic loader is not in the image")
        );
        assert_eq!(interpreter_hint(b"other"), None);
    }
}
