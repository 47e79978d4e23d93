//! A bad line to a server: a proxy that fails in all the ways that lines and registries fail in, by a seed.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and a test that cannot be set up has failed"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often, of 1000 requests.
#[derive(Clone, Copy)]
pub struct Rates {
    pub unavailable: u64,
    pub too_many: u64,
    /// The connection is reset after some bytes of the request.
    pub reset_up: u64,
    /// ... or of the answer.
    pub reset_down: u64,
    /// Nothing comes any more.
    pub stall: u64,
    /// The answer ends early.
    pub truncate: u64,
}

/// What the figures of the project are measured with.
pub const BAD: Rates = Rates {
    unavailable: 300,
    too_many: 20,
    reset_up: 20,
    reset_down: 20,
    stall: 5,
    truncate: 20,
};

/// How many of 1000 connections break off that are not looked into.
const CUT: u64 = 150;

#[derive(Default)]
struct State {
    /// `None`: what is said is not understood, as with TLS; connections break off.
    rates: Option<Rates>,
    upstream: String,
    seed: AtomicU64,
    /// What has one wrong byte, once.
    spoil: Mutex<Vec<String>>,
    stop: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    log: Mutex<Vec<String>>,
}

pub struct Faults {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Faults {
    /// Before `upstream`, `host:port`.
    pub fn before(upstream: &str, rates: Rates, seed: u64) -> Self {
        Self::start(upstream, Some(rates), seed)
    }

    /// The same without looking into what is said: connections break off, or nothing comes any more.
    pub fn around(upstream: &str, seed: u64) -> Self {
        Self::start(upstream, None, seed)
    }

    fn start(upstream: &str, rates: Option<Rates>, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            rates,
            upstream: upstream.to_owned(),
            seed: AtomicU64::new(seed),
            ..State::default()
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (state, Ok(stream)) = (Arc::clone(&shared), stream) else {
                    continue;
                };
                std::thread::spawn(move || {
                    // Broken connections are what this is about.
                    let _ = match state.rates {
                        Some(rates) => state.serve(stream, rates),
                        None => state.tunnel(&stream),
                    };
                });
            }
        });
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// When the blob is asked for the next time, one byte of it is wrong.
    pub fn spoil(&self, digest: &str) {
        self.state.spoil.lock().unwrap().push(digest.to_owned());
    }

    /// Bytes of bodies that went up and down since the last call.
    pub fn take_bytes(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.state.up), take(&self.state.down))
    }

    /// What was asked last and what became of it.
    pub fn log(&self) -> String {
        let log = self.state.log.lock().unwrap();
        log[log.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    /// splitmix64.
    fn random(&self) -> u64 {
        let mut z = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn take_spoilt(&self, line: &str) -> bool {
        let mut spoil = self.spoil.lock().unwrap();
        let found = spoil.iter().position(|digest| line.contains(digest.as_str()));
        found.map(|place| spoil.remove(place)).is_some()
    }

    /// One request of a connection.
    fn serve(&self, mut client: TcpStream, rates: Rates) -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(30)))?;
        let Some(head) = head_of(&mut client)? else {
            // Others than HTTP are not spoken to.
            return Ok(());
        };
        let line = head.lines().next().unwrap_or_default().to_owned();
        let note = |what: &str| self.log.lock().unwrap().push(format!("{line}: {what}"));
        let mut dice = self.random() % 1000;
        let mut falls = |rate: u64| {
            let hit = dice < rate;
            dice = dice.wrapping_sub(rate);
            hit
        };
        if falls(rates.unavailable) {
            note("503");
            return client.write_all(
                b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
        }
        if falls(rates.too_many) {
            note("429");
            return client.write_all(
                b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
        }
        let length = header(&head, "content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if falls(rates.reset_up) {
            let mut part = vec![
                0;
                if length > 0 {
                    (self.random() as usize) % length
                } else {
                    0
                }
            ];
            client.read_exact(&mut part)?;
            self.up.fetch_add(part.len() as u64, Ordering::Relaxed);
            note(&format!("reset after {} of {length} bytes", part.len()));
            return reset(client);
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        self.up.fetch_add(length as u64, Ordering::Relaxed);
        let mut answer = self.forward(&head, &body)?;
        let start = answer
            .windows(4)
            .position(|end| end == b"\r\n\r\n")
            .map_or(answer.len(), |at| at + 4);
        if line.starts_with("GET") && self.take_spoilt(&line) {
            note("a wrong byte");
            let place = answer.len() - 1;
            answer[place] ^= 1;
        }
        let random = self.random() as usize % answer.len().max(1);
        let (cut, hard) = if falls(rates.reset_down) {
            (random, true)
        } else if falls(rates.stall) {
            note("stall");
            client.write_all(&answer[..random])?;
            self.down
                .fetch_add(random.saturating_sub(start) as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(5));
            return Ok(());
        } else if falls(rates.truncate) {
            (random, false)
        } else {
            (answer.len(), false)
        };
        note(&format!(
            "{cut} of {}{}",
            answer.len(),
            if hard { ", reset" } else { "" }
        ));
        client.write_all(&answer[..cut])?;
        self.down
            .fetch_add(cut.saturating_sub(start) as u64, Ordering::Relaxed);
        if hard {
            reset(client)
        } else {
            client.shutdown(Shutdown::Both)
        }
    }

    /// A connection as it is, for some time.
    fn tunnel(&self, client: &TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect(&self.upstream)?;
        let good_for = if self.random() % 1000 < CUT {
            self.random() % (1 << 20)
        } else {
            u64::MAX
        };
        let left = AtomicU64::new(good_for);
        let pump = |mut from: &TcpStream, mut to: &TcpStream, count: &AtomicU64| -> std::io::Result<()> {
            let mut buffer = vec![0; 16 << 10];
            loop {
                let read = from.read(&mut buffer)?;
                if read == 0 {
                    return to.shutdown(Shutdown::Write);
                }
                let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(read as u64)
                });
                if taken.is_err() {
                    self.log
                        .lock()
                        .unwrap()
                        .push(format!("cut after {good_for} bytes"));
                    if good_for % 8 == 0 {
                        std::thread::sleep(Duration::from_secs(3));
                    }
                    client.shutdown(Shutdown::Both)?;
                    return server.shutdown(Shutdown::Both);
                }
                to.write_all(&buffer[..read])?;
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| pump(client, &server, &self.up));
            pump(&server, client, &self.down)
        })
    }

    /// The whole answer of the server.
    fn forward(&self, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(&self.upstream)?;
        // `Host` stays, so that addresses in answers lead here again.
        let kept = head
            .lines()
            .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let mut text: String = kept
            .filter(|line| !line.is_empty())
            .map(|line| format!("{line}\r\n"))
            .collect();
        text.push_str("Connection: close\r\n\r\n");
        server.write_all(text.as_bytes())?;
        server.write_all(body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn head_of(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 || byte[0] == 0x16 && head.is_empty() {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Closes with RST.
fn reset(stream: TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}
