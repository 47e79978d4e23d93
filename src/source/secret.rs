//! Secrets of the caller (`--secret`), for steps that name them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, bail};

/// The largest secret, as BuildKit's.
const MOST_BYTES: u64 = 500 * 1024;

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Env(String),
    /// The variable of that name if it is set, else the file.
    Either(String),
}

/// A value of `--secret`: which secret, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    id: String,
    place: Place,
}

/// Why a value of `--secret` cannot be used, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid secret {text:?}: {reason}")]
pub struct SecretError {
    text: String,
    reason: String,
}

impl FromStr for SecretSource {
    type Err = SecretError;

    /// `[type=file|env,]id=ID[,src=FILE|,env=NAME]`
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let fail = |reason: String| {
            let text = text.to_owned();
            Err(SecretError { text, reason })
        };
        let fields = match rbuild_parser::value::csv_fields(text) {
            Ok(fields) => fields,
            Err(error) => return fail(format!("failed to parse csv secret: {error}")),
        };
        let (mut kind, mut id, mut file, mut env) =
            (String::new(), String::new(), String::new(), String::new());
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                return fail(format!("invalid field '{field}' must be a key=value pair"));
            };
            match key.to_lowercase().as_str() {
                "type" if matches!(value, "file" | "env") => value.clone_into(&mut kind),
                "type" => return fail(format!("unsupported secret type {value:?}: use file or env")),
                "id" => value.clone_into(&mut id),
                "source" | "src" => value.clone_into(&mut file),
                "env" => value.clone_into(&mut env),
                key => return fail(format!("unexpected key '{key}' in '{field}'")),
            }
        }
        if kind == "env" && env.is_empty() {
            env = std::mem::take(&mut file);
        }
        if id.is_empty() {
            return fail("secret missing ID: give id=NAME".to_owned());
        }
        let place = match (env.is_empty(), file.is_empty()) {
            (false, _) => Place::Env(env),
            (true, false) => Place::File(PathBuf::from(file)),
            (true, true) => Place::Either(id.clone()),
        };
        Ok(Self { id, place })
    }
}

/// The bytes of a secret. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<[u8]>);

impl SecretValue {
    /// The bytes as they are.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0
    }
}

impl From<Vec<u8>> for SecretValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// All secrets of a build by id, in memory.
#[derive(Debug, Default)]
pub struct Secrets(BTreeMap<String, SecretValue>);

impl Secrets {
    /// Reads the values. A variable that is not set gives no secret, as with docker; a file that is not there is an error.
    pub fn read(sources: &[SecretSource]) -> anyhow::Result<Self> {
        let mut secrets = BTreeMap::new();
        for source in sources {
            let value = source
                .read()
                .with_context(|| format!("reading the secret {:?}", source.id))?;
            match value {
                Some(value) => secrets.insert(source.id.clone(), value.into()),
                None => secrets.remove(&source.id),
            };
        }
        Ok(Self(secrets))
    }

    /// The secret of this id.
    pub fn get(&self, id: &str) -> Option<&SecretValue> {
        self.0.get(id)
    }

    /// All of them with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretValue)> {
        self.0.iter().map(|(id, value)| (id.as_str(), value))
    }
}

impl SecretSource {
    fn read(&self) -> anyhow::Result<Option<Vec<u8>>> {
        use std::os::unix::ffi::OsStringExt;
        let variable = |name: &str| std::env::var_os(name).map(OsStringExt::into_vec);
        let value = match &self.place {
            Place::Env(name) => variable(name),
            Place::File(path) => Some(read_file(path)?),
            Place::Either(name) => match variable(name) {
                Some(value) => Some(value),
                None => Some(read_file(name.as_ref())?),
            },
        };
        if let Some(value) = &value
            && value.len() as u64 > MOST_BYTES
        {
            bail!("it is larger than {MOST_BYTES} bytes, the most a secret may have");
        }
        Ok(value)
    }
}

fn read_file(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    let opening = || format!("opening {}", path.display());
    let file = std::fs::File::open(path).with_context(opening)?;
    if file.metadata().with_context(opening)?.is_dir() {
        bail!("{} is a directory", path.display());
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_docker_s() {
        let file = |path: &str| Place::File(path.into());
        for (text, id, place) in [
            ("id=a,src=f", "a", file("f")),
            ("ID=a,Source=/x/y", "a", file("/x/y")),
            ("type=file,id=a,src=f", "a", file("f")),
            ("id=a,env=B", "a", Place::Env("B".to_owned())),
            ("type=env,id=a,src=B", "a", Place::Env("B".to_owned())),
            ("id=a,env=B,src=f", "a", Place::Env("B".to_owned())),
            ("id=a", "a", Place::Either("a".to_owned())),
            ("\"id=a,b\",src=f", "a,b", file("f")),
        ] {
            let id = id.to_owned();
            assert_eq!(text.parse(), Ok(SecretSource { id, place }), "{text}");
        }
        for (text, reason) in [
            ("src=f", "secret missing ID: give id=NAME"),
            ("id", "invalid field 'id' must be a key=value pair"),
            (
                "id=a,type=vault",
                "unsupported secret type \"vault\": use file or env",
            ),
            ("id=a,sorce=f", "unexpected key 'sorce' in 'sorce=f'"),
            ("", "failed to parse csv secret: EOF"),
        ] {
            let error = text.parse::<SecretSource>().unwrap_err();
            assert_eq!(error.reason, reason, "{text}");
        }
    }

    #[test]
    fn files_are_read_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, b"\x00bytes\n").unwrap();
        let source = |path: &std::path::Path| SecretSource {
            id: "s".to_owned(),
            place: Place::File(path.to_owned()),
        };
        let secrets = Secrets::read(&[source(&path)]).unwrap();
        assert_eq!(secrets.get("s").unwrap().bytes()[..], *b"\x00bytes\n");
        assert_eq!(format!("{secrets:?}"), "Secrets({\"s\": SecretValue(..)})");
        assert!(secrets.get("t").is_none());
        assert!(Secrets::read(&[source(directory.path())]).is_err());
        assert!(Secrets::read(&[source(&directory.path().join("none"))]).is_err());
        std::fs::write(&path, vec![b'x'; 500 * 1024 + 1]).unwrap();
        assert!(Secrets::read(&[source(&path)]).is_err());
    }
}
