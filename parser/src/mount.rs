//! The value of `RUN --mount` (spec 3.3).

use crate::expand::ExpandError;
use crate::suggest::nearest;
use crate::value::{csv_fields, parse_bool};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory kept between builds.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the caller.
    Secret,
    /// The caller's ssh agent.
    Ssh,
}

impl MountType {
    const NAMES: [&'static str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

    /// As written in `type=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    fn parse(text: &str) -> Result<Self, MountError> {
        match text.to_lowercase().as_str() {
            "bind" => Ok(Self::Bind),
            "cache" => Ok(Self::Cache),
            "tmpfs" => Ok(Self::Tmpfs),
            "secret" => Ok(Self::Secret),
            "ssh" => Ok(Self::Ssh),
            _ => {
                Err(MountError::new(format!("unsupported mount type {text:?}")).instead_of(text, Self::NAMES))
            }
        }
    }
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// A second user gets another copy.
    Private,
    /// A second user waits.
    Locked,
}

impl Sharing {
    const NAMES: [&'static str; 3] = ["shared", "private", "locked"];

    fn parse(text: &str) -> Result<Self, MountError> {
        match text.to_lowercase().as_str() {
            "shared" => Ok(Self::Shared),
            "private" => Ok(Self::Private),
            "locked" => Ok(Self::Locked),
            _ => {
                Err(MountError::new(format!("unsupported sharing value {text:?}"))
                    .instead_of(text, Self::NAMES))
            }
        }
    }
}

/// One `--mount`, taken apart and checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Mount {
    /// `type`.
    pub kind: MountType,
    /// `from`: stage, named context or image.
    pub from: Option<String>,
    /// `source`.
    pub source: Option<String>,
    /// `target`, as written: relative ones are to be joined to the working directory.
    pub target: Option<String>,
    /// Whether it cannot be written to, by default of its type or by `ro`/`rw`.
    pub readonly: bool,
    /// `id` of a cache, secret or agent.
    pub id: Option<String>,
    /// `sharing`; only for caches.
    pub sharing: Sharing,
    /// `required`.
    pub required: bool,
    /// `env` of a secret.
    pub env: Option<String>,
    /// `size` of a tmpfs in bytes.
    pub size: Option<u64>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

/// A `--mount` value is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MountError {
    /// BuildKit's words.
    pub message: String,
    /// The key or value that may have been meant.
    pub suggestion: Option<String>,
}

impl MountError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            suggestion: None,
        }
    }

    fn instead_of<'a>(self, word: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            suggestion: nearest(word, options),
            ..self
        }
    }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
];

impl Mount {
    /// Takes a value apart, passing every `value` of its `key=value` pairs but that of `from` through `expand`.
    pub fn parse(
        csv: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<Self, MountError> {
        let mut pairs = Vec::new();
        for field in fields(csv)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) if key.eq_ignore_ascii_case("from") => (key, Some(value.to_owned())),
                Some((key, value)) => (
                    key,
                    Some(expand(value).map_err(|error| MountError::new(error.to_string()))?),
                ),
                None => (field.as_str(), None),
            };
            pairs.push((key.to_lowercase(), value, field.clone()));
        }
        let mut mount = Self::default();
        // What other keys mean depends on it, wherever it stands.
        for (_, value, _) in pairs.iter().filter(|(key, ..)| key == "type") {
            mount.kind = MountType::parse(value.as_deref().unwrap_or_default())?;
        }
        let mut readonly = None;
        let mut sharing = None;
        for (key, value, field) in pairs {
            mount.set(&key, value, &field, &mut readonly, &mut sharing)?;
        }
        mount.readonly = readonly.unwrap_or(!matches!(mount.kind, MountType::Cache | MountType::Tmpfs));
        mount.sharing = sharing.unwrap_or_default();
        mount.validate(sharing.is_some())?;
        Ok(mount)
    }

    /// What can be said before variables are known: the csv is well-formed and `from` has no variable.
    pub fn check(csv: &str) -> Result<(), MountError> {
        for field in fields(csv)? {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
                && value.find('$').is_some_and(|dollar| dollar + 1 < value.len())
            {
                let message = "'from' doesn't support variable expansion, define alias stage instead";
                return Err(MountError::new(message));
            }
        }
        Ok(())
    }

    /// What `from` says, which needs no variables to be known; `None` when it is not there or the csv is malformed.
    pub fn from_of(csv: &str) -> Option<String> {
        let fields = fields(csv).ok()?;
        let mut pairs = fields.iter().rev().filter_map(|field| field.split_once('='));
        let (_, value) = pairs.find(|(key, _)| key.eq_ignore_ascii_case("from"))?;
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn set(
        &mut self,
        key: &str,
        value: Option<String>,
        field: &str,
        readonly: &mut Option<bool>,
        sharing: &mut Option<Sharing>,
    ) -> Result<(), MountError> {
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => *readonly = Some(true),
                "readwrite" | "rw" => *readonly = Some(false),
                "required" if self.may_be_required() => self.required = true,
                "required" => return Err(self.unexpected(key)),
                _ => {
                    return Err(MountError::new(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            }
            return Ok(());
        };
        let invalid = || MountError::new(format!("invalid value for {key}: {value}"));
        let number = |radix| {
            u32::from_str_radix(&value, radix)
                .ok()
                .filter(|_| !value.starts_with('+'))
                .ok_or_else(|| MountError::new(format!("invalid value {value} for {key}")))
        };
        let given = || Some(value.clone()).filter(|value| !value.is_empty());
        match key {
            "type" => {}
            "from" => self.from = given(),
            "source" | "src" => self.source = given(),
            "target" | "dst" | "destination" => self.target = given(),
            "readonly" | "ro" => *readonly = Some(parse_bool(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => *readonly = Some(!parse_bool(&value).ok_or_else(invalid)?),
            "required" if self.may_be_required() => self.required = parse_bool(&value).ok_or_else(invalid)?,
            "size" if self.kind == MountType::Tmpfs => self.size = Some(bytes(&value).ok_or_else(invalid)?),
            "env" if self.kind == MountType::Secret => self.env = given(),
            "required" | "size" | "env" => return Err(self.unexpected(key)),
            "id" => self.id = given(),
            "sharing" => *sharing = Some(Sharing::parse(&value)?),
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            _ => {
                return Err(
                    MountError::new(format!("unexpected key '{key}' in '{field}'")).instead_of(key, KEYS)
                );
            }
        }
        Ok(())
    }

    fn may_be_required(&self) -> bool {
        matches!(self.kind, MountType::Secret | MountType::Ssh)
    }

    fn unexpected(&self, key: &str) -> MountError {
        MountError::new(format!(
            "unexpected key '{key}' for mount type '{}'",
            self.kind.as_str()
        ))
    }

    fn validate(&self, sharing: bool) -> Result<(), MountError> {
        let kind = self.kind;
        let fail = |message: String| Err(MountError::new(message));
        if matches!(kind, MountType::Bind | MountType::Tmpfs) {
            let owner = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = owner.iter().find(|(_, value)| value.is_some()) {
                return fail(format!("{key} not allowed for {:?} type mounts", kind.as_str()));
            }
        }
        match kind {
            MountType::Secret if self.from.is_some() => {
                return fail("secret mount should not have a from".into());
            }
            MountType::Secret if sharing => return fail("secret mount should not define sharing".into()),
            MountType::Secret if self.source.is_none() && self.target.is_none() && self.id.is_none() => {
                return fail("invalid secret mount. one of source, target required".into());
            }
            MountType::Secret if self.source.is_some() && self.id.is_some() => {
                return fail("both source and id can't be set".into());
            }
            MountType::Ssh if self.source.is_some() => {
                return fail(format!("source not allowed for {:?} type mounts", kind.as_str()));
            }
            _ => {}
        }
        if sharing && kind != MountType::Cache {
            return fail(format!("invalid cache sharing set for {} mount", kind.as_str()));
        }
        let mounted = matches!(kind, MountType::Bind | MountType::Cache | MountType::Tmpfs);
        if mounted
            && self
                .target
                .as_deref()
                .is_none_or(|target| target.bytes().all(|byte| byte == b'/'))
        {
            return fail("invalid mount target \"/\"".into());
        }
        Ok(())
    }
}

fn fields(csv: &str) -> Result<Vec<String>, MountError> {
    csv_fields(csv).map_err(|error| MountError::new(format!("failed to parse csv mounts: {error}")))
}

/// `64m`, `1.5GiB`, `100` in bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|scalar: char| scalar != '.' && !scalar.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit
        .strip_suffix('b')
        .map_or(unit.as_str(), |unit| unit.strip_suffix('i').unwrap_or(unit));
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * 1024f64.powi(power);
    // Exact up to 2^53; a tmpfs of more than that there is not.
    (bytes < 9e15).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(csv: &str) -> Result<Mount, String> {
        let expand = &mut |word: &str| Ok(word.replace("$V", "value"));
        Mount::check(csv)
            .and_then(|()| Mount::parse(csv, expand))
            .map_err(|error| match &error.suggestion {
                Some(suggestion) => format!("{error} (did you mean {suggestion}?)"),
                None => error.to_string(),
            })
    }

    #[test]
    fn mounts() {
        let text = |text: &str| Some(text.to_owned());
        for (csv, expected) in [
            (
                "target=/x,source=$V,from=s",
                Mount {
                    target: text("/x"),
                    source: text("value"),
                    from: text("s"),
                    readonly: true,
                    ..Mount::default()
                },
            ),
            (
                "DST=x,RW",
                Mount {
                    target: text("x"),
                    ..Mount::default()
                },
            ),
            (
                "\"target=/a,b\",ro=false,id=",
                Mount {
                    target: text("/a,b"),
                    ..Mount::default()
                },
            ),
            (
                "type=Cache,dst=/c,id=n,sharing=locked,mode=0700,uid=1,gid=2,ro",
                Mount {
                    kind: MountType::Cache,
                    target: text("/c"),
                    id: text("n"),
                    sharing: Sharing::Locked,
                    mode: Some(0o700),
                    uid: Some(1),
                    gid: Some(2),
                    readonly: true,
                    ..Mount::default()
                },
            ),
            (
                "size=1.5k,type=tmpfs,target=/t",
                Mount {
                    kind: MountType::Tmpfs,
                    target: text("/t"),
                    size: Some(1536),
                    ..Mount::default()
                },
            ),
            (
                "required,type=secret,id=s,env=TOKEN",
                Mount {
                    kind: MountType::Secret,
                    id: text("s"),
                    env: text("TOKEN"),
                    required: true,
                    readonly: true,
                    ..Mount::default()
                },
            ),
            (
                "type=ssh",
                Mount {
                    kind: MountType::Ssh,
                    readonly: true,
                    ..Mount::default()
                },
            ),
        ] {
            assert_eq!(parse(csv), Ok(expected), "{csv}");
        }
    }

    #[test]
    fn from_is_known_before_the_rest() {
        for (csv, from) in [
            ("type=cache,uid=$U,FROM=a,target=/x", Some("a")),
            ("from=a,target=/x,from=b", Some("b")),
            ("from=,target=/x", None),
            ("target=/x", None),
            ("\"", None),
        ] {
            assert_eq!(Mount::from_of(csv).as_deref(), from, "{csv}");
        }
    }

    #[test]
    fn errors() {
        for (csv, message) in [
            (
                "type=bnd,target=/x",
                "unsupported mount type \"bnd\" (did you mean bind?)",
            ),
            (
                "tagret=/x",
                "unexpected key 'tagret' in 'tagret=/x' (did you mean target?)",
            ),
            ("bogus=1,target=/x", "unexpected key 'bogus' in 'bogus=1'"),
            ("target", "invalid field 'target' must be a key=value pair"),
            (
                "from=$X,target=/x",
                "'from' doesn't support variable expansion, define alias stage instead",
            ),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
            (
                "target=/x,required",
                "unexpected key 'required' for mount type 'bind'",
            ),
            ("target=/x,size=1", "unexpected key 'size' for mount type 'bind'"),
            ("type=tmpfs,target=/x,size=1x", "invalid value for size: 1x"),
            ("target=/x,mode=0755", "mode not allowed for \"bind\" type mounts"),
            (
                "type=tmpfs,target=/x,uid=1",
                "uid not allowed for \"tmpfs\" type mounts",
            ),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            ("type=cache,target=/x,uid=-1", "invalid value -1 for uid"),
            (
                "target=/x,sharing=shared",
                "invalid cache sharing set for bind mount",
            ),
            (
                "type=cache,target=/x,sharing=lokced",
                "unsupported sharing value \"lokced\" (did you mean locked?)",
            ),
            ("type=secret,from=x,id=y", "secret mount should not have a from"),
            (
                "type=secret,sharing=shared,id=y",
                "secret mount should not define sharing",
            ),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            ("type=ssh,src=b", "source not allowed for \"ssh\" type mounts"),
            ("type=bind", "invalid mount target \"/\""),
            ("target=/", "invalid mount target \"/\""),
            ("", "failed to parse csv mounts: EOF"),
            ("a\"b", "failed to parse csv mounts: bare \" in non-quoted-field"),
            (
                "\"a",
                "failed to parse csv mounts: extraneous or missing \" in quoted-field",
            ),
            ("target=/x,", "invalid field '' must be a key=value pair"),
        ] {
            assert_eq!(parse(csv), Err(message.to_owned()), "{csv}");
        }
    }
}
