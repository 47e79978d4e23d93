//! Annotations of `--annotation` and of `-o annotation.*`: which of manifest, index and descriptors they
//! belong to, and for which platform.

use std::collections::BTreeMap;

use super::output::OutputError;
use crate::graph::Platform;

/// What carries an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationTarget {
    /// The image manifest.
    Manifest,
    /// The descriptor of the manifest in an index.
    ManifestDescriptor,
    /// The image index.
    Index,
    /// The descriptor of the index in an OCI layout.
    IndexDescriptor,
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What carries it.
    pub target: AnnotationTarget,
    /// Only for this platform.
    pub platform: Option<Platform>,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

impl Annotation {
    /// Parses a value of `--annotation`: `[TYPE[PLATFORM],...:]KEY=VALUE`; several types give several annotations.
    pub fn parse(text: &str) -> Result<Vec<Self>, OutputError> {
        let fail = |reason| OutputError::Annotation {
            text: text.to_owned(),
            reason,
        };
        let (left, value) = text.split_once('=').ok_or_else(|| fail("it must be KEY=VALUE"))?;
        let (targets, key) = match left.split_once(':') {
            Some((targets, key)) => (targets, key),
            None => ("manifest", left),
        };
        if key.is_empty() {
            return Err(fail("the key is empty"));
        }
        let annotation = |target: &str| {
            let (target, platform) = target_of(target.trim()).map_err(fail)?;
            Ok(Self {
                target,
                platform,
                key: key.to_owned(),
                value: value.to_owned(),
            })
        };
        targets.split(',').map(annotation).collect()
    }

    /// The attribute `annotation[-TYPE][[PLATFORM]].KEY` of an output.
    pub(super) fn from_attribute(attribute: &str, value: &str) -> Result<Self, OutputError> {
        let fail = |reason| OutputError::Annotation {
            text: attribute.to_owned(),
            reason,
        };
        let rest = attribute.get("annotation".len()..).unwrap_or_default();
        // A platform may hold dots, so its bracket is looked for first.
        let split = match (rest.find('['), rest.find("].")) {
            (Some(open), Some(close)) if open < close && !rest[..open].contains('.') => close + 1,
            _ => rest.find('.').ok_or_else(|| fail("it must be annotation.KEY"))?,
        };
        let (target, key) = (&rest[..split], &rest[split + 1..]);
        if key.is_empty() {
            return Err(fail("the key is empty"));
        }
        let target = target.strip_prefix('-').unwrap_or(target);
        let target = if target.starts_with('[') || target.is_empty() {
            format!("manifest{target}")
        } else {
            target.to_owned()
        };
        let (target, platform) = target_of(&target).map_err(fail)?;
        Ok(Self {
            target,
            platform,
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }

    /// Those of `annotations` that belong on an index or its descriptor, by key; the last of one key wins.
    pub fn on_index(annotations: &[Self], target: AnnotationTarget) -> BTreeMap<String, String> {
        let wanted = annotations.iter().filter(|a| a.target == target);
        wanted.map(|a| (a.key.clone(), a.value.clone())).collect()
    }

    /// Those of `annotations` that belong on `target` for an image of `platform`, by key; the last of one key wins.
    pub fn select(
        annotations: &[Self],
        target: AnnotationTarget,
        platform: &Platform,
    ) -> BTreeMap<String, String> {
        annotations
            .iter()
            .filter(|a| {
                a.target == target && a.platform.as_ref().is_none_or(|wanted| wanted.accepts(platform))
            })
            .map(|a| (a.key.clone(), a.value.clone()))
            .collect()
    }
}

/// `TYPE[PLATFORM]`.
fn target_of(text: &str) -> Result<(AnnotationTarget, Option<Platform>), &'static str> {
    let (name, platform) = match text.split_once('[') {
        Some((name, platform)) => (
            name,
            Some(platform.strip_suffix(']').ok_or("a bracket is not closed")?),
        ),
        None => (text, None),
    };
    let target = match name {
        "manifest" => AnnotationTarget::Manifest,
        "manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
        "index" => AnnotationTarget::Index,
        "index-descriptor" => AnnotationTarget::IndexDescriptor,
        _ => return Err("the type must be manifest, manifest-descriptor, index or index-descriptor"),
    };
    let platform = platform
        .map(|p| p.parse().map_err(|_| "the platform must be OS/ARCH[/VARIANT]"))
        .transpose()?;
    Ok((target, platform))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_attributes_name_the_same() {
        let flag = Annotation::parse("manifest[linux/arm64],index:a.b=c=d").unwrap();
        assert_eq!(flag.len(), 2);
        assert_eq!(flag[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
        assert_eq!(flag[1].target, AnnotationTarget::Index);
        assert_eq!((flag[1].key.as_str(), flag[1].value.as_str()), ("a.b", "c=d"));
        let attribute = Annotation::from_attribute("annotation-manifest[linux/arm64].a.b", "c=d").unwrap();
        assert_eq!(attribute, flag[0]);
        assert_eq!(
            Annotation::from_attribute("annotation.x", "1").unwrap().target,
            AnnotationTarget::Manifest
        );
        for bad in [
            "x",
            "=v",
            "nosuch:a=b",
            "manifest[linux/arm64:a=b",
            "manifest[?]:a=b",
            "index:=v",
        ] {
            assert!(Annotation::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_platform_selects() {
        let given = [
            Annotation::parse("a=1").unwrap(),
            Annotation::parse("manifest[linux/arm64]:a=2").unwrap(),
        ]
        .concat();
        let on = |p: &str| {
            Annotation::select(&given, AnnotationTarget::Manifest, &p.parse().unwrap())["a"].clone()
        };
        assert_eq!(
            (on("linux/amd64"), on("linux/arm64")),
            ("1".to_owned(), "2".to_owned())
        );
    }
}
