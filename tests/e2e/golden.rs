//! The golden vectors of the specification (section 16), each built by the real binary. V56 is in
//! `secrets`, V60 in `reproducible`.

mod vectors;

use std::fs;

use serde_json::Value;

use crate::built::{blob, build, each, is_refused, last_layer, makes_layers, manifest};
use crate::server::{Answer, Server};
use vectors::{CONFIGS, LAYERS, REFUSED};

#[test]
fn layers_are_as_buildkit_makes_them() {
    makes_layers(LAYERS);
}

#[test]
fn what_buildkit_refuses_is_refused() {
    is_refused(REFUSED);
}

#[test]
fn configs_are_as_buildkit_makes_them() {
    each(|env| {
        for (id, body, pointer, expected) in CONFIGS {
            let layout = env.path("layout");
            build(env, body, &layout, &[]).ok();
            let manifest = manifest(&layout);
            let config = blob(&layout, &manifest["config"]["digest"]);
            let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(config.pointer(pointer).unwrap_or(&Value::Null), &expected, "{id}");
            fs::remove_dir_all(layout).unwrap();
        }
    });
}

#[test]
fn v45_v46_files_of_web_servers() {
    let server = Server::start(|request| match request.path.as_str() {
        "/file.txt" => Answer::of("text").header("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT"),
        _ => Answer::of("index"),
    });
    each(|env| {
        for (id, url, dest, expected) in [
            (
                "V45",
                "/file.txt",
                "/d/",
                ["d d755 0:0", "d/file.txt f600 0:0 text @1000000000"],
            ),
            (
                "V46",
                "/",
                "/i/",
                ["i d755 0:0", "i/__unnamed__ f600 0:0 index @0"],
            ),
        ] {
            let layout = env.path("layout");
            let body = format!("FROM scratch\nADD {} {dest}", server.url(url));
            build(env, &body, &layout, &[]).ok();
            assert_eq!(last_layer(&layout), expected, "{id}");
            fs::remove_dir_all(layout).unwrap();
        }
    });
}

#[test]
fn v57_a_script_with_an_interpreter_is_run_by_it() {
    each(|env| {
        let body = "FROM base\nRUN <<E\n#!/bin/cat\nthe script $itself\nE";
        let run = build(env, body, &env.path("layout"), &[]).ok();
        assert!(run.stderr.contains("the script $itself"), "{}", run.stderr);
    });
}

#[test]
fn v58_v59_ignore_files() {
    each(|env| {
        let body = "FROM scratch\nCOPY d /";
        let layout = env.path("layout");
        env.write("ctx/.dockerignore", "*\n!d/sub/2\n");
        build(env, body, &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["sub d755 0:0", "sub/2 f644 0:0 2"], "V58");
        fs::remove_dir_all(&layout).unwrap();
        env.write("Dockerfile.dockerignore", "");
        build(env, body, &layout, &[]).ok();
        assert_eq!(
            last_layer(&layout),
            ["1 f644 0:0 1", "sub d755 0:0", "sub/2 f644 0:0 2"],
            "V59"
        );
    });
}

#[test]
fn p18_a_changed_base_leaves_a_linked_copy_cached() {
    each(|env| {
        let build = |base: &str| {
            let body =
                format!("FROM base\nRUN echo {base} > /base && mkdir -p /srv/{base}\nCOPY --link d /srv/x/");
            let layout = env.path("layout");
            let run = build(env, &body, &layout, &[]).ok();
            let layers = manifest(&layout)["layers"].as_array().unwrap().clone();
            fs::remove_dir_all(&layout).unwrap();
            (run, layers.last().unwrap()["digest"].clone())
        };
        let (_, first) = build("one");
        let (run, second) = build("two");
        assert_eq!(first, second);
        assert_eq!(run.count("CACHED"), 1, "{}", run.stderr);
        // And a base that has a link where the copy goes changes nothing.
        let odd = "RUN rm -rf /srv && ln -s /tmp /srv && echo three\nCOPY --link d /srv/x/";
        let layout = env.path("layout");
        crate::built::build(env, &format!("FROM base\n{odd}"), &layout, &[]).ok();
        let layers = manifest(&layout)["layers"].as_array().unwrap().clone();
        assert_eq!(layers.last().unwrap()["digest"], first);
    });
}
