use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::built::{blob, manifest};
use crate::env::as_every_user;

#[test]
fn a_final_copy_creates_none_of_its_files() {
    as_every_user(|env| {
        env.base();
        for directory in 0..200 {
            for file in 0..100 {
                env.write(
                    &format!("many/d{directory}/f{file}"),
                    format!("{directory} {file}\n"),
                );
            }
        }
        env.write("many/Dockerfile", "FROM base\nCOPY . /app\n");
        let calls = "openat,open,creat,mkdir,mkdirat,mknodat,linkat,link,symlinkat";
        let context = env.path("many");
        let Some(trace) = env.trace(calls, &["build", "-q", "-t", "many", context.to_str().unwrap()]) else {
            return;
        };
        let created = trace
            .lines()
            .filter(|line| line.contains("O_CREAT") || line.contains("mkdir") || line.contains("link"))
            .count();
        assert!(created < 100, "{created} files were created for a COPY of 20,000");
    });
}

#[test]
fn a_run_does_not_look_at_the_image() {
    as_every_user(|env| {
        env.base();
        // Links, because it is names that a scan would stumble over, and files are slow to make.
        let make = "FROM base\nRUN mkdir -p /data/1 && cd /data/1 && seq 200 | xargs touch && cd .. && \
                    for d in $(seq 2 250); do cp -al 1 $d; done\n";
        env.build("files", make, &[]).ok();
        env.write("one/Dockerfile", "FROM files\nRUN echo x >> /data/7/7\n");
        let calls = "getdents64,newfstatat,statx,openat,openat2,lstat,stat";
        let context = env.path("one");
        let Some(trace) = env.trace(calls, &["build", "-q", "-t", "one", context.to_str().unwrap()]) else {
            return;
        };
        let calls = trace.lines().count();
        assert!(
            calls < 3000,
            "{calls} calls for a RUN that touches one of 50,000 files"
        );
    });
}

#[test]
fn an_export_over_the_last_one_writes_only_what_is_new() {
    as_every_user(|env| {
        env.base();
        env.write("app/large", "0123456789".repeat(100_000));
        env.write("app/small", "one");
        env.write("app/Dockerfile", "FROM base\nCOPY large /\nCOPY small /\n");
        let (context, layout) = (env.path("app"), env.path("layout"));
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let export = || {
            env.rbuild(["build", "-q", "-o", &output, context.to_str().unwrap()])
                .ok();
            layers(&layout)
        };
        let first = export();
        let stored = env.store().join("blobs/sha256");
        for layer in &first {
            let inode = |path: &Path| fs::metadata(path).unwrap().ino();
            let (ours, theirs) = (stored.join(&layer.0), layout.join("blobs/sha256").join(&layer.0));
            assert_ne!(inode(&ours), inode(&theirs), "the store would be writable");
        }
        let index = fs::metadata(layout.join("index.json")).unwrap().ino();
        assert_eq!(export(), first);
        assert_eq!(fs::metadata(layout.join("index.json")).unwrap().ino(), index);
        env.write("app/small", "two");
        let second = export();
        assert_eq!(second.len(), 3);
        assert_eq!(second[..2], first[..2]);
        assert_ne!(second[2], first[2]);
        // What has another size is not what it says it is.
        fs::write(layout.join("blobs/sha256").join(&first[1].0), "cut").unwrap();
        let healed = export();
        assert_eq!(healed[1].0, first[1].0);
        assert_eq!(healed[1].2, first[1].2);
        assert_ne!(healed[1].1, first[1].1);
    });
}

/// Digest, inode and size of the files that are the layers of the layout's image.
fn layers(layout: &Path) -> Vec<(String, u64, u64)> {
    let manifest = manifest(layout);
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| {
            let path = blob(layout, &layer["digest"]);
            let found = fs::metadata(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.to_owned(), found.ino(), found.size())
        })
        .collect()
}
