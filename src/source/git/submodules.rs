//! `.gitmodules`: which repository lies at which path.

use rbuild_parser::git_url::Remote;

use super::clone::Clone;
use super::failure::Failure;
use crate::error::BuildError;

/// What a commit says about its submodules.
pub struct Submodules<'a> {
    parent: &'a Remote,
    modules: Vec<Module>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Module {
    name: Vec<u8>,
    path: Option<Vec<u8>>,
    url: Option<Vec<u8>>,
    update: Option<Vec<u8>>,
}

impl<'a> Submodules<'a> {
    pub fn read(clone: &Clone<'_>, commit: &str, parent: &'a Remote) -> Result<Self, Failure> {
        let mut modules = Vec::new();
        if clone.look_up(commit, ".gitmodules")?.is_some() {
            let blob = format!("{commit}:.gitmodules");
            let args = ["config", "--null", "--list", "--no-includes", "--blob", &blob];
            modules = parse(&clone.git().call(args).inside(&clone.path).output()?);
        }
        Ok(Self { parent, modules })
    }

    /// The repository of the submodule at `path`; `None` when it is said not to be filled.
    pub fn remote_of(&self, path: &[u8]) -> Result<Option<Remote>, BuildError> {
        let shown = String::from_utf8_lossy(path);
        let module = self
            .modules
            .iter()
            .find(|module| module.path.as_deref() == Some(path));
        let Some((module, url)) = module.and_then(|module| Some((module, module.url.as_deref()?))) else {
            return Err(BuildError::message(format!(
                "no url found for submodule path {shown:?} in .gitmodules of {}",
                self.parent
            ))
            .hint(Some(
                "submodules=false in the URL leaves submodules out".to_owned(),
            )));
        };
        if module.update.as_deref() == Some(b"none") {
            return Ok(None);
        }
        let url = String::from_utf8_lossy(url);
        let remote = if url.starts_with("./") || url.starts_with("../") {
            self.parent.relative(&url)
        } else {
            // What stands there is the repository's word: credentials of it are not used.
            Remote::parse(&url).map(|(remote, _)| remote)
        };
        remote.map(Some).map_err(|error| {
            let cause =
                anyhow::Error::new(error).context(format!("the submodule {shown:?} of {}", self.parent));
            BuildError::new(cause).hint(Some(
                "submodules=false in the URL leaves submodules out".to_owned(),
            ))
        })
    }
}

/// `submodule.NAME.KEY\nVALUE\0` ... A value that comes twice counts the last time, as in git.
fn parse(output: &[u8]) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    for setting in output.split(|byte| *byte == 0) {
        let end = setting
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(setting.len());
        let value = setting.get(end + 1..).unwrap_or_default().to_vec();
        let Some(rest) = setting[..end].strip_prefix(b"submodule.") else {
            continue;
        };
        let Some(dot) = rest.iter().rposition(|byte| *byte == b'.') else {
            continue;
        };
        let (name, key) = (&rest[..dot], &rest[dot + 1..]);
        let known = modules.iter().position(|module| module.name == name);
        let place = known.unwrap_or_else(|| {
            modules.push(Module {
                name: name.to_vec(),
                ..Module::default()
            });
            modules.len() - 1
        });
        let module = &mut modules[place];
        match key {
            b"path" => module.path = Some(value),
            b"url" => module.url = Some(value),
            b"update" => module.update = Some(value),
            _ => {}
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote_of(settings: &[u8], path: &str) -> Result<Option<String>, String> {
        let parent = Remote::parse("https://h/org/main.git").unwrap().0;
        let submodules = Submodules {
            parent: &parent,
            modules: parse(settings),
        };
        let found = submodules.remote_of(path.as_bytes());
        found
            .map(|remote| remote.map(|remote| remote.to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn urls_of_submodules() {
        let settings = b"submodule.a.b.path\nlib/a\0submodule.a.b.url\n../other.git\0core.sshcommand\nid\0\
            submodule.n.path\nn\0submodule.n.url\nhttps://x/y\0submodule.n.update\nnone\0\
            submodule.u.path\nu\0submodule.u.url\nssh://git@x/y\0submodule.u.update\n!touch /x\0";
        assert_eq!(
            remote_of(settings, "lib/a"),
            Ok(Some("https://h/org/other.git".to_owned()))
        );
        assert_eq!(remote_of(settings, "n"), Ok(None));
        assert_eq!(remote_of(settings, "u"), Ok(Some("ssh://git@x/y".to_owned())));
        assert!(remote_of(settings, "lib").unwrap_err().contains("no url found"));
    }

    /// A3-5, A3-6.
    #[test]
    fn hostile_settings_are_refused() {
        for url in [
            "file:///etc",
            "/etc",
            "ext::sh -c id",
            "-u./x",
            "--upload-pack=x",
            "ssh://-oProxyCommand=x/y",
            "../../../../x",
        ] {
            let settings = format!("submodule.a.path\na\0submodule.a.url\n{url}\0");
            assert!(remote_of(settings.as_bytes(), "a").is_err(), "{url}");
        }
        let settings = b"submodule.a.path\na\r\0submodule.a.url\nhttps://h/x\0";
        assert!(remote_of(settings, "a").is_err());
    }
}
