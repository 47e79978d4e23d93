//! Values of `--output`, as docker takes and refuses them.

use super::*;

fn kind(text: &str) -> OutputKind {
    Output::parse(text).unwrap().kind
}

#[test]
fn the_grammar_is_dockers() {
    let path = |text: &str| Destination::Path(text.into());
    for (text, wanted) in [
        ("out", OutputKind::Local { dest: "out".into() }),
        (
            "-",
            OutputKind::Tar {
                dest: Destination::Stdout,
            },
        ),
        ("type=local,dest=a b", OutputKind::Local { dest: "a b".into() }),
        (
            "type=tar",
            OutputKind::Tar {
                dest: Destination::Stdout,
            },
        ),
        (
            "type=oci,dest=x.tar",
            OutputKind::Oci {
                dest: path("x.tar"),
                tar: true,
            },
        ),
        (
            "type=oci,dest=x,tar=false",
            OutputKind::Oci {
                dest: path("x"),
                tar: false,
            },
        ),
        (
            "type=docker,dest=-",
            OutputKind::Docker {
                dest: Destination::Stdout,
                tar: true,
            },
        ),
        ("type=docker", OutputKind::Load),
        (
            "type=image,push=true",
            OutputKind::Image {
                store: true,
                push: true,
            },
        ),
        (
            "type=registry",
            OutputKind::Image {
                store: false,
                push: true,
            },
        ),
        ("type=cacheonly", OutputKind::CacheOnly),
        (
            "\"type=local\",\"dest=a,b\"",
            OutputKind::Local { dest: "a,b".into() },
        ),
    ] {
        assert_eq!(kind(text), wanted, "{text}");
    }
}

#[test]
fn names_and_encoding() {
    let output = Output::parse(
        "type=image,\"name=a:1,b:2\",compression=zstd,compression-level=19,force-compression=true,annotation.Some.Key=x=y",
    )
    .unwrap();
    assert_eq!(output.names, ["a:1", "b:2"]);
    assert_eq!(output.encoding.codec, Some(Codec::Zstd));
    assert_eq!(output.encoding.level, Some(19));
    assert!(output.encoding.force && output.encoding.oci_media_types);
    assert_eq!(output.encoding.annotations[0].key, "Some.Key");
    assert_eq!(output.encoding.annotations[0].value, "x=y");
}

#[test]
fn what_is_not_meant_is_refused() {
    for (text, part) in [
        ("type=nosuch", "unknown output type"),
        ("type=local", "dest is required"),
        ("type=local,dest=-", "dest is required"),
        ("dest=x,name=y", "type is required"),
        ("type=oci,dest", "KEY=VALUE"),
        ("type=oci,\"dest=a", "extraneous or missing"),
        ("type=oci,de\"st=a", "bare"),
        ("type=oci,colour=red", "known ones are dest, tar, name"),
        ("type=cacheonly,dest=x", "known ones are none"),
        ("type=image,push-by-digest=true", "not supported yet"),
        ("type=image,unpack=true", "not supported yet"),
        ("type=oci,dest=x,compression=estargz", "not supported yet"),
        ("type=oci,dest=x,compression=lzma", "one of uncompressed"),
        ("type=oci,dest=x,compression-level=10", "0 to 9"),
        (
            "type=oci,dest=x,compression=uncompressed,compression-level=1",
            "no level",
        ),
        (
            "type=oci,dest=x,compression=zstd,oci-mediatypes=false",
            "zstd layers",
        ),
        ("type=oci,dest=x,tar=maybe", "true or false"),
        ("type=oci,tar=false", "dest is required"),
        ("", "dest is required"),
    ] {
        let message = Output::parse(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn only_one_writer_and_no_console() {
    let outputs = |texts: &[&str]| {
        texts
            .iter()
            .map(|t| Output::parse(t).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        Output::check(&outputs(&["-", "type=oci"]), false),
        Err(OutputError::TwoWriters)
    );
    assert_eq!(
        Output::check(&outputs(&["-"]), true),
        Err(OutputError::Console { kind: "tar" })
    );
    assert_eq!(Output::check(&outputs(&["-", "type=image"]), false), Ok(()));
    let here = tempfile::tempdir().unwrap();
    let text = format!("type=oci,dest={}", here.path().display());
    assert!(Output::check(&outputs(&[&text]), false).is_err());
}
