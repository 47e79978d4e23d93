//! Large blobs from servers that give each connection little. `RBUILD_RANGED` (in MiB) makes the blob larger, for a figure.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild::registry::{CredentialFiles, Registry, RegistryOptions};
use rbuild_cache::Digest;

use super::{read_all, reference};

/// Bytes for one connection in a fiftieth of a second.
const STEP: usize = 10 << 10;

/// What the server does with ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Ranges,
    /// All of it, whatever is asked for.
    Whole,
    /// One connection gets something, the others are told to come later.
    OneAtATime,
    /// Parts end early, each a first time.
    Breaking,
    /// Parts have other bytes.
    Lying,
}

struct Slow {
    kind: Kind,
    bytes: Vec<u8>,
    now: AtomicUsize,
    most: AtomicUsize,
    sent: AtomicUsize,
    broken: Mutex<Vec<usize>>,
}

impl Slow {
    fn start(kind: Kind, bytes: Vec<u8>) -> (String, Arc<Self>) {
        let slow = Arc::new(Self {
            kind,
            bytes,
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            broken: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = Arc::clone(&slow);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let slow = Arc::clone(&serving);
                std::thread::spawn(move || {
                    let at_once = slow.now.fetch_add(1, Ordering::SeqCst) + 1;
                    // Who hangs up has what it wanted.
                    let _ = slow.serve(&stream, at_once);
                    slow.now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        (address, slow)
    }

    fn serve(&self, mut stream: &TcpStream, at_once: usize) -> std::io::Result<()> {
        let mut range = None;
        for (number, line) in BufReader::new(stream).split(b'\n').enumerate() {
            let line = String::from_utf8_lossy(&line?).trim().to_lowercase();
            if number == 0 && !line.starts_with("get ") {
                return Ok(());
            }
            if number == 0 && !line.contains("/blobs/") {
                return stream
                    .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            }
            if let Some(text) = line.strip_prefix("range: bytes=") {
                let (from, to) = text.split_once('-').unwrap();
                range = Some((from.parse().unwrap(), to.parse::<usize>().ok()));
            }
            if line.is_empty() {
                break;
            }
        }
        self.most.fetch_max(at_once, Ordering::SeqCst);
        if self.kind == Kind::OneAtATime && at_once > 1 {
            return stream.write_all(
                b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
        }
        let all = self.bytes.len();
        let (from, to) = match range.filter(|_| self.kind != Kind::Whole) {
            Some((from, to)) => (from, to.map_or(all, |last| last + 1)),
            None => (0, all),
        };
        let status = if (from, to) == (0, all) {
            "200 OK".to_owned()
        } else {
            format!(
                "206 Partial Content\r\nContent-Range: bytes {from}-{}/{all}",
                to - 1
            )
        };
        let length = to - from;
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut body = self.bytes[from..to].to_vec();
        if self.kind == Kind::Lying && range.is_some() {
            body[0] ^= 1;
        }
        if self.kind == Kind::Breaking && range.is_some() && !self.broken.lock().unwrap().contains(&(to - 1))
        {
            self.broken.lock().unwrap().push(to - 1);
            body.truncate(length / 2);
        }
        for chunk in body.chunks(STEP) {
            stream.write_all(chunk)?;
            self.sent.fetch_add(chunk.len(), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

#[test]
fn a_slow_line_is_used_several_times() {
    let mib = std::env::var("RBUILD_RANGED").map_or(2, |text| text.parse().unwrap());
    let size: usize = mib << 20;
    let bytes: Vec<u8> = (0..size).map(|i| (i / 3 % 249) as u8).collect();
    let digest = Digest::of(&bytes);
    let kinds = [
        Kind::Ranges,
        Kind::Whole,
        Kind::OneAtATime,
        Kind::Breaking,
        Kind::Lying,
    ];
    std::thread::scope(|scope| {
        for kind in kinds {
            let bytes = &bytes;
            scope.spawn(move || {
                let (address, server) = Slow::start(kind, bytes.clone());
                let options = RegistryOptions {
                    download_part: size as u64 / 16,
                    ..RegistryOptions::default()
                };
                let client = Registry::with_credentials(options, CredentialFiles::default());
                let begun = Instant::now();
                let reader = client.blob(&reference(&format!("{address}/app")), &digest, size as u64);
                let read = read_all(reader.unwrap());
                let most = server.most.load(Ordering::SeqCst);
                let sent = server.sent.load(Ordering::SeqCst);
                println!(
                    "{kind:?}: {:.1} s of {} s, {most} connections, {:.3} times the bytes",
                    begun.elapsed().as_secs_f32(),
                    size / STEP / 50,
                    sent as f32 / size as f32
                );
                if kind == Kind::Lying {
                    let error = read.unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
                    return;
                }
                assert!(read.unwrap() == *bytes, "{kind:?}");
                match kind {
                    Kind::Ranges | Kind::Breaking => assert!(most >= 4, "{kind:?}: {most}"),
                    // The others were tried, and the first went on alone.
                    _ => assert!(most >= 2, "{kind:?}: {most}"),
                }
                assert!(sent <= size / 4 * 5, "{kind:?}: {sent} of {size} bytes");
            });
        }
    });
}
