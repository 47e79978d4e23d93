//! Which file a command name means, and why it could not be executed.
//!
//! Runs inside the root, as the step's user, with the words that runc uses.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
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
    let hint = match (
        errno,
        head(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))),
    ) {
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
    let mut head = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(256)
        .read_to_end(&mut head)
        .ok()?;
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
