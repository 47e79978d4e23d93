//! What the rooms do by themselves, without a process around it: `cargo bench`. Whole builds are measured by `scripts/bench`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::io::{Read, Write};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rbuild_cache::layer::{
    Compression, Compressor, Decompressor, Entry, Kind, LayerIndex, LayerPath, TarWriter, Timestamp,
};
use rbuild_cache::{Digest, KeyBuilder, Store};
use rbuild_parser::ignore::{Matcher, parse_ignore_file};

/// A Dockerfile of `steps` times six instructions.
fn dockerfile(steps: usize) -> String {
    let mut text = "# syntax=docker/dockerfile:1\nARG VERSION=12\nFROM debian:$VERSION AS build\n".to_owned();
    for step in 0..steps {
        text.push_str(&format!(
            "WORKDIR /src/{step}\nENV STEP={step} NAME=\"step ${{STEP:-none}}\"\nCOPY --chown=1:1 --link src/{step} /src/{step}/\n\
             RUN --mount=type=cache,target=/cache make -C {step} \\\n    all \\\n    install\n\
             RUN <<EOF\nset -e\ncd {step}\n./configure\nEOF\nLABEL org.example.step=\"{step}\"\n"
        ));
    }
    text
}

/// Bytes that compress like text: words of a small vocabulary in random order.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        write!(bytes, "word{} ", (state >> 33) % 5000).unwrap();
    }
    bytes.truncate(length);
    bytes
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: LayerPath::clean(path.as_bytes()),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
    }
}

/// Directories of 100 files each, sorted, as layers have them.
fn entries(files: usize, size: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    for directory in 0..files.div_ceil(100) {
        entries.push(entry(
            &format!("d{directory:04}"),
            Kind::Directory { opaque: false },
        ));
        for file in 0..100.min(files - directory * 100) {
            entries.push(entry(&format!("d{directory:04}/f{file:02}"), Kind::File { size }));
        }
    }
    entries
}

fn parsing(criterion: &mut Criterion) {
    let text = dockerfile(200);
    let mut group = criterion.benchmark_group("parser");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("1,200 instructions", |b| {
        b.iter(|| rbuild_parser::parse(black_box(text.as_bytes())).unwrap());
    });
    group.finish();
}

fn ignoring(criterion: &mut Criterion) {
    let lines = parse_ignore_file(
        "**/node_modules\n*.log\n**/*.tmp\n!src/**/keep.tmp\n.git\ndocs/*/draft?\ntarget\n",
    )
    .unwrap();
    let patterns: Vec<String> = lines.into_iter().map(|line| line.pattern).collect();
    let matcher = Matcher::new(&patterns).unwrap();
    let paths: Vec<String> = (0..10_000)
        .map(|i| {
            format!(
                "src/module{}/inner/file{i}.{}",
                i % 50,
                ["rs", "tmp", "log"][i % 3]
            )
        })
        .collect();
    let mut group = criterion.benchmark_group("ignore");
    group.throughput(Throughput::Elements(paths.len() as u64));
    group.bench_function("7 patterns, 10,000 paths", |b| {
        b.iter(|| {
            let excluded = paths.iter().filter(|path| matcher.excludes(path.as_bytes()));
            black_box(excluded.count())
        });
    });
    group.finish();
}

fn writing_layers(criterion: &mut Criterion) {
    const SIZE: u64 = 10_000;
    let data = text(SIZE as usize);
    let entries = entries(2000, SIZE);
    let mut group = criterion.benchmark_group("layer");
    group.throughput(Throughput::Bytes(2000 * SIZE));
    group.bench_function("tar and digests of 2,000 files", |b| {
        b.iter(|| {
            let mut tar = TarWriter::new(std::io::sink());
            for entry in &entries {
                let mut bytes = data.as_slice();
                let is_file = matches!(entry.kind, Kind::File { .. });
                tar.append(entry, is_file.then_some(&mut bytes as &mut dyn Read))
                    .unwrap();
            }
            tar.finish().unwrap();
        });
    });
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    group.bench_function("2,000 files into the store", |b| {
        b.iter(|| {
            let mut builder = store.layer_builder().unwrap();
            for entry in &entries {
                let mut bytes = data.as_slice();
                let is_file = matches!(entry.kind, Kind::File { .. });
                builder
                    .append(entry, is_file.then_some(&mut bytes as &mut dyn Read))
                    .unwrap();
            }
            builder.commit().unwrap()
        });
    });
    group.finish();
}

fn compressing(criterion: &mut Criterion) {
    let input = text(16 << 20);
    let mut group = criterion.benchmark_group("compression");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(input.len() as u64));
    for compression in [
        Compression::Gzip(1),
        Compression::GZIP,
        Compression::Gzip(9),
        Compression::ZSTD,
    ] {
        let compress = |threads| {
            let mut out = Compressor::with_threads(Vec::new(), compression, threads).unwrap();
            out.write_all(&input).unwrap();
            out.finish().unwrap()
        };
        for threads in [1, 2] {
            group.bench_function(format!("{compression:?}, {threads} threads"), |b| {
                b.iter(|| compress(threads));
            });
        }
        let compressed = compress(2);
        group.bench_function(format!("{compression:?}, back"), |b| {
            b.iter(|| {
                let mut source = Decompressor::new(compressed.as_slice()).unwrap();
                std::io::copy(&mut source, &mut std::io::sink()).unwrap()
            });
        });
    }
    group.finish();
}

fn keys(criterion: &mut Criterion) {
    let files: Vec<(String, Digest)> = (0..20_000)
        .map(|i| {
            let path = format!("src/module{}/file{i}.rs", i % 100);
            let digest = Digest::of(path.as_bytes());
            (path, digest)
        })
        .collect();
    let mut group = criterion.benchmark_group("key");
    group.throughput(Throughput::Elements(files.len() as u64));
    group.bench_function("of 20,000 files", |b| {
        b.iter(|| {
            let mut key = KeyBuilder::new("bench/1");
            for (path, digest) in &files {
                key.field("path", path.as_bytes())
                    .field("content", digest.as_bytes());
            }
            key.finish()
        });
    });
    group.finish();
}

fn indexes(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let mut builder = store.layer_builder().unwrap();
    for entry in entries(50_000, 1) {
        let is_file = matches!(entry.kind, Kind::File { .. });
        builder
            .append(&entry, is_file.then_some(&mut &b"x"[..] as &mut dyn Read))
            .unwrap();
    }
    let layer = store.layer(&builder.commit().unwrap()).unwrap();
    let bytes = layer.index().unwrap().to_bytes();
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(50_000));
    group.bench_function("read, 50,000 entries", |b| {
        b.iter(|| LayerIndex::from_bytes(black_box(&bytes)).unwrap());
    });
    let index = LayerIndex::from_bytes(&bytes).unwrap();
    group.bench_function("looked up, 1,000 paths", |b| {
        b.iter_batched(
            || (0..1000).map(|i| LayerPath::clean(format!("d{:04}/f{:02}", i % 500, i % 100).as_bytes())),
            |paths| paths.filter(|path| index.get(path).is_some()).count(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(
    benches,
    parsing,
    ignoring,
    writing_layers,
    compressing,
    keys,
    indexes
);
criterion_main!(benches);
