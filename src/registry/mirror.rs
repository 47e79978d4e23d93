//! Where else may an image be? Mirrors, registries that have moved, registries that nobody may ask, short names.
//!
//! Invariant: what a mirror sends is verified like what the registry itself sends, and a mirror is shown its own credentials only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::reference::{Reference, ReferenceError};

/// What the user has decided about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// By what they are about; the longest prefix that fits a name decides.
    pub rules: Vec<Rule>,
    /// What is meant by names without a registry.
    pub aliases: BTreeMap<String, Alias>,
}

/// What a short name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// `HOST[:PORT]/REPOSITORY`.
    pub meant: String,
    /// The file of another program that says so; `None` when the user told us himself.
    pub file: Option<PathBuf>,
}

/// What is decided about registries beside the rules.
#[derive(Debug, Clone, Default)]
pub struct Decisions {
    /// Mirrors, moved and blocked registries, short names.
    pub rules: Rules,
    /// As [`super::RegistryOptions::insecure`].
    pub insecure: Vec<String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// About the images whose names begin with `prefix`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `HOST[:PORT][/PATH]`, or `*.DOMAIN`.
    pub prefix: String,
    /// What stands in place of the prefix.
    pub location: Option<String>,
    /// Nobody may ask for them.
    pub blocked: bool,
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
}

/// A place that has what another has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// `HOST[:PORT][/PATH]`, in place of the prefix.
    pub location: String,
    /// For names without a digest.
    pub tags: bool,
    /// For names with one.
    pub digests: bool,
}

/// Where an image may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What to ask for there.
    pub reference: Reference,
    /// Whether others are asked if this one does not have it.
    pub is_mirror: bool,
}

/// Whether a name says nothing of its registry.
pub fn is_short(text: &str) -> bool {
    match text.split_once('/') {
        Some((first, _)) => {
            first != "localhost"
                && !first.contains(['.', ':'])
                && !first.bytes().any(|byte| byte.is_ascii_uppercase())
        }
        None => true,
    }
}

impl Rule {
    /// How much of `name` the rule is about.
    fn covers(&self, name: &str) -> Option<usize> {
        let end = match self.prefix.strip_prefix('*') {
            // Of the host only.
            Some(domain) => {
                let host = name.split('/').next().unwrap_or_default();
                (domain.starts_with('.') && host.ends_with(domain)).then_some(host.len())?
            }
            None => name.starts_with(&self.prefix).then_some(self.prefix.len())?,
        };
        (end > 0 && matches!(name.as_bytes().get(end), None | Some(b'/'))).then_some(end)
    }
}

impl Rules {
    /// The rule about `name` (`HOST/REPOSITORY`), and what of the name it is about.
    fn about(&self, name: &str) -> Option<(&Rule, usize)> {
        let covering = self
            .rules
            .iter()
            .filter_map(|rule| Some((rule, rule.covers(name)?)));
        covering.max_by_key(|(rule, _)| rule.prefix.len())
    }

    /// The places to ask for `reference`, first to last. The error says what forbids it.
    pub fn places(&self, reference: &Reference) -> Result<Vec<Place>, String> {
        let name = reference.name();
        let itself = Place {
            reference: reference.clone(),
            is_mirror: false,
        };
        let Some((rule, end)) = self.about(&name) else {
            return Ok(vec![itself]);
        };
        if rule.blocked {
            return Err(format!("the configuration blocks {}", rule.prefix));
        }
        let moved = |location: &str| -> Result<Reference, String> {
            let mut text = format!("{location}{}", &name[end..]);
            if let Some(tag) = reference.tag() {
                text.push_str(&format!(":{tag}"));
            }
            if let Some(digest) = reference.digest() {
                text.push_str(&format!("@{digest}"));
            }
            Reference::parse(&text)
                .map_err(|error| format!("{location:?}, configured for {}: {error}", rule.prefix))
        };
        let fits = |mirror: &&Mirror| match reference.digest() {
            Some(_) => mirror.digests,
            None => mirror.tags,
        };
        let mut places = Vec::new();
        for mirror in rule.mirrors.iter().filter(fits) {
            places.push(Place {
                reference: moved(&mirror.location)?,
                is_mirror: true,
            });
        }
        places.push(match &rule.location {
            Some(location) => Place {
                reference: moved(location)?,
                is_mirror: false,
            },
            None => itself,
        });
        Ok(places)
    }

    /// What `text` means: an image's name, or a short name.
    pub fn parse(&self, text: &str) -> Result<Reference, ReferenceError> {
        match self.alias(text) {
            Some((alias, rest)) => Reference::parse(&format!("{}{rest}", alias.meant)),
            None => Reference::parse(text),
        }
    }

    /// The alias that `text` is, and the tag and digest behind it.
    pub fn alias<'a>(&self, text: &'a str) -> Option<(&Alias, &'a str)> {
        let end = text.find([':', '@']).unwrap_or(text.len());
        let alias = self.aliases.get(&text[..end])?;
        is_short(text).then_some((alias, &text[end..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(location: &str) -> Mirror {
        Mirror {
            location: location.to_owned(),
            tags: true,
            digests: true,
        }
    }

    fn rule(prefix: &str, mirrors: &[&str]) -> Rule {
        Rule {
            prefix: prefix.to_owned(),
            mirrors: mirrors.iter().map(|location| mirror(location)).collect(),
            ..Rule::default()
        }
    }

    fn places(rules: &Rules, name: &str) -> Vec<String> {
        let places = rules.places(&Reference::parse(name).unwrap()).unwrap();
        places.iter().map(|place| place.reference.to_string()).collect()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let mut rules = Rules {
            rules: vec![
                rule("docker.io", &["mirror.lan:5000/hub", "mirror.gcr.io"]),
                rule("docker.io/library", &[]),
                Rule {
                    location: Some("new.example/all".to_owned()),
                    ..rule("old.example", &[])
                },
                rule("*.corp.example", &["m.lan/corp"]),
            ],
            ..Rules::default()
        };
        rules.rules[0].mirrors[1].tags = false;
        for (name, expected) in [
            (
                "team/app:1",
                vec!["mirror.lan:5000/hub/team/app:1", "docker.io/team/app:1"],
            ),
            ("alpine", vec!["docker.io/library/alpine:latest"]),
            ("old.example/a:2", vec!["new.example/all/a:2"]),
            ("old.example:5000/a:2", vec!["old.example:5000/a:2"]),
            ("old.example.org/a:2", vec!["old.example.org/a:2"]),
            ("x.corp.example/a:2", vec!["m.lan/corp/a:2", "x.corp.example/a:2"]),
            ("corp.example/a:2", vec!["corp.example/a:2"]),
        ] {
            assert_eq!(places(&rules, name), expected, "{name}");
        }
        let pinned = format!("team/app@{digest}");
        assert_eq!(places(&rules, &pinned)[1], format!("mirror.gcr.io/{pinned}"));
    }

    #[test]
    fn what_is_blocked_is_asked_nowhere() {
        let blocked = Rule {
            blocked: true,
            ..rule("evil.example/bad", &["m.lan"])
        };
        let rules = Rules {
            rules: vec![blocked],
            ..Rules::default()
        };
        let error = rules
            .places(&Reference::parse("evil.example/bad/x").unwrap())
            .unwrap_err();
        assert!(error.contains("blocks evil.example/bad"), "{error}");
        assert_eq!(places(&rules, "evil.example/badly:1"), ["evil.example/badly:1"]);
    }

    #[test]
    fn short_names_have_no_registry() {
        let rules = Rules {
            aliases: [(
                "fedora".to_owned(),
                Alias {
                    meant: "registry.fedoraproject.org/fedora".to_owned(),
                    file: None,
                },
            )]
            .into(),
            ..Rules::default()
        };
        for (text, meant) in [
            ("fedora:40", "registry.fedoraproject.org/fedora:40"),
            ("fedora", "registry.fedoraproject.org/fedora:latest"),
            ("docker.io/library/fedora", "docker.io/library/fedora:latest"),
            ("x/fedora", "docker.io/x/fedora:latest"),
        ] {
            assert_eq!(rules.parse(text).unwrap().to_string(), meant);
        }
    }
}
