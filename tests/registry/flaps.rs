//! Transfers over bad lines. `RBUILD_FLAPS` says how many; the default is a few.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild::registry::{CredentialFiles, Reference, Registry, RegistryOptions, Transferred};
use rbuild_cache::{Digest, Store};

use super::common::{PASSWORD, TestRegistry, USER};
use super::faults::{BAD, Faults, Rates};
use super::images::{Image, blob, image, push};
use super::token::TokenServer;
use super::{read_all, reference, with_options};

const LAYERS: usize = 20;

pub fn options() -> RegistryOptions {
    RegistryOptions {
        stall_limit: Duration::from_millis(800),
        upload_part: 2 << 20,
        ..RegistryOptions::default()
    }
}

/// As many as layers of images are: two that are large, some in the middle, many that are small. Each has its own bytes.
fn twenty_layers(run: u64) -> Image {
    let sizes: Vec<usize> = (0..LAYERS)
        .map(|n| match n {
            0 | 1 => 3 << 20,
            2..8 => 600 << 10,
            _ => 40 << 10,
        } + (run as usize * 13) % 5000)
        .collect();
    image("amd64", &sizes)
}

fn body_bytes(image: &Image) -> u64 {
    image
        .layers
        .iter()
        .chain([&image.config])
        .map(|bytes| bytes.len() as u64)
        .sum()
}

/// Pushes and pulls over `line` by a fresh client each.
fn there_and_back(line: &Faults, options: &RegistryOptions, run: u64) {
    let (_dir, client) = with_options(&line.address(), USER, PASSWORD, options.clone());
    let name = reference(&format!("{}/flap/app:{run}", line.address()));
    let image = twenty_layers(run);
    let pushed =
        push(&client, &name, &image).unwrap_or_else(|error| panic!("push {run}: {error}\n{}", line.log()));
    assert_eq!(pushed, Digest::of(&image.manifest));
    // A client that knows nothing, into a store that has nothing.
    let (_dir, client) = with_options(&line.address(), USER, PASSWORD, options.clone());
    line.spoil(&Digest::of(&image.layers[LAYERS - 1]).to_string());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    pull(&client, &store, &name, &image)
        .unwrap_or_else(|error| panic!("pull {run}: {error:#}\n{}", line.log()));
    for layer in &image.layers {
        assert_eq!(
            &read_all(store.open_blob(&Digest::of(layer)).unwrap()).unwrap(),
            layer
        );
    }
}

/// All pushes and pulls, some at once, over a line of which nothing was counted yet; what that cost.
pub fn go_over(line: &Faults, options: &RegistryOptions) -> String {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..runs().min(4) {
            scope.spawn(|| {
                while let Some(run) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|run| *run < runs()) {
                    there_and_back(line, options, run);
                }
            });
        }
    });
    let all: u64 = (0..runs()).map(|run| body_bytes(&twenty_layers(run))).sum();
    let (up, down) = line.take_bytes();
    let (up, down) = (up as f64 / all as f64, down as f64 / all as f64);
    // A registry that forgets an upload when its answer was lost gets all of the blob again: few runs have no mean.
    let limit = if runs() < 20 { 1.6 } else { 1.2 };
    assert!(
        up <= limit && down <= limit,
        "sent again: {up:.3} up, {down:.3} down\n{}",
        line.log()
    );
    format!(
        "{n} of {n} pushes and pulls of {LAYERS} layers: {up:.3} times the bytes up, {down:.3} times down, {:.1} s",
        begun.elapsed().as_secs_f32(),
        n = runs()
    )
}

fn pull(client: &Registry, store: &Store, name: &Reference, image: &Image) -> anyhow::Result<()> {
    let source = rbuild::source::image::ImageSource::new(store.clone(), client.clone(), Default::default());
    let pulled = source.pull(name, &"linux/amd64".parse().unwrap())?;
    assert_eq!(pulled.descriptor.digest, Digest::of(&image.manifest));
    Ok(())
}

fn runs() -> u64 {
    std::env::var("RBUILD_FLAPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

#[test]
fn twenty_layers_get_over_a_bad_line() {
    // A token is good for five seconds, the registry for as long as it lasts, the line for nothing.
    let tokens = TokenServer::start(Duration::from_secs(5), Some("tester:secret"));
    let to_tokens = Faults::before(&tokens.server.address().to_string(), BAD, 1);
    let server = TestRegistry::with_tokens(
        &format!("http://{}/token", to_tokens.address()),
        tokens.certificate(),
    );
    let line = Faults::before(server.address(), BAD, 2);
    println!("with tokens: {}", go_over(&line, &options()));
}

#[test]
fn what_will_not_get_better_ends_soon() {
    let server = TestRegistry::with_password();
    let quiet = Rates {
        unavailable: 0,
        too_many: 0,
        reset_up: 0,
        reset_down: 0,
        stall: 0,
        truncate: 0,
    };
    let line = Faults::before(server.address(), quiet, 3);
    let name = reference(&format!("{}/no/such:1", line.address()));
    for (user, password, what) in [(USER, "wrong", "denied access"), (USER, PASSWORD, "not found")] {
        let (_dir, client) = with_options(&line.address(), user, password, options());
        let begun = Instant::now();
        let error = client.manifest(&name).unwrap_err().to_string();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(error.contains(what) && error.contains(&line.address()), "{error}");
    }
    let anonymous = Registry::with_credentials(options(), CredentialFiles::default());
    let begun = Instant::now();
    let error = push(&anonymous, &name, &image("amd64", &[100]))
        .unwrap_err()
        .to_string();
    assert!(
        begun.elapsed() < Duration::from_secs(3) && error.contains("denied access"),
        "{error}"
    );
}

/// What [`keeping_registry`] has, how much came, and what it was asked.
type Kept = Arc<Mutex<(Vec<u8>, u64, Vec<String>)>>;

/// A registry with one upload, which keeps what came; of the first requests with bytes it breaks each off in its middle. A
/// request of more than `most` bytes it refuses unread.
fn keeping_registry(breaks: usize, most: usize) -> (String, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let state: Kept = Arc::default();
    let (kept, broken) = (Arc::clone(&state), AtomicUsize::new(0));
    let serve = move |mut stream: TcpStream| -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 || (byte[0] == 0x16 && head.is_empty()) {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let line = head.lines().next().unwrap_or_default().to_owned();
        let field = |name: &str| {
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        let length: usize = field("content-length").map_or(0, |text| text.parse().unwrap());
        let range = field("content-range");
        kept.lock()
            .unwrap()
            .2
            .push(format!("{line} {}", range.clone().unwrap_or_default()));
        if length > most {
            stream.write_all(
                b"HTTP/1.1 413 Request Entity Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            )?;
            // As nginx: the connection ends when the client has seen it.
            stream.shutdown(std::net::Shutdown::Write)?;
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return Ok(());
        }
        let mut body = vec![0; length];
        if length > 0 && broken.fetch_add(1, Ordering::Relaxed) < breaks {
            body.truncate(length / 2);
            stream.read_exact(&mut body)?;
            let mut kept = kept.lock().unwrap();
            kept.1 += body.len() as u64;
            kept.0.extend(body);
            return Ok(());
        }
        stream.read_exact(&mut body)?;
        let mut kept = kept.lock().unwrap();
        kept.1 += length as u64;
        let start = range.map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
        let status = match line.split(' ').next().unwrap() {
            "head" => "404 Not Found",
            "patch" if start != kept.0.len() => "416 Range Not Satisfiable",
            "patch" | "put" => {
                kept.0.extend(body);
                if line.starts_with("put") {
                    "201 Created"
                } else {
                    "202 Accepted"
                }
            }
            "get" if line.contains("/uploads/") => "204 No Content",
            _ => "202 Accepted",
        };
        let last = kept.0.len().saturating_sub(1);
        let location = if line.starts_with("put") {
            ""
        } else {
            "Location: /v2/app/blobs/uploads/1?state=x%2Fy\r\n"
        };
        let text = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{location}Range: 0-{last}\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(text.as_bytes())
    };
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, state)
}

#[test]
fn a_broken_upload_goes_on_where_it_was() {
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    for part in [64 << 20, 2 << 20] {
        let (address, state) = keeping_registry(3, usize::MAX);
        let options = RegistryOptions {
            upload_part: part,
            ..options()
        };
        let client = Registry::with_credentials(options, CredentialFiles::default());
        let sent = client.push_blob(&reference(&format!("{address}/app")), &blob(&bytes), &|_| {});
        let (kept, came, requests) = std::mem::take(&mut *state.lock().unwrap());
        assert_eq!(sent.unwrap(), Transferred::Sent, "{requests:#?}");
        assert!(kept == bytes, "{requests:#?}");
        assert_eq!(came, 5_000_000, "no byte comes twice: {requests:#?}");
        let whole = requests
            .iter()
            .filter(|request| request.starts_with("patch") && !request.ends_with(char::is_numeric));
        assert_eq!(whole.count(), usize::from(part > 5_000_000), "{requests:#?}");
        let put = requests
            .iter()
            .find(|request| request.starts_with("put"))
            .unwrap();
        assert!(put.contains("state=x%2fy&digest=sha256:"), "{put}");
    }
}

#[test]
fn a_proxy_that_takes_no_large_requests_gets_smaller_ones() {
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    // What nginx takes when it is told nothing, and what somebody has told it.
    for (most, parts) in [(1 << 20, 21), (17 << 20, 2), (1000, 0)] {
        let (address, state) = keeping_registry(0, most);
        let client = Registry::with_credentials(RegistryOptions::default(), CredentialFiles::default());
        let sent = client.push_blob(&reference(&format!("{address}/app")), &blob(&bytes), &|_| {});
        let (kept, came, requests) = std::mem::take(&mut *state.lock().unwrap());
        let ranged = requests
            .iter()
            .filter(|request| request.starts_with("patch") && request.ends_with(char::is_numeric));
        if most == 1000 {
            let error = sent.unwrap_err().to_string();
            assert!(
                error.contains("answered 413") && error.contains("client_max_body_size"),
                "{error}"
            );
            assert_eq!(came, 0);
            continue;
        }
        assert_eq!(sent.unwrap(), Transferred::Sent, "{requests:#?}");
        assert!(kept == bytes && came == bytes.len() as u64, "{requests:#?}");
        // Each size that was refused was tried once.
        assert_eq!(ranged.count(), parts, "{requests:#?}");
    }
}
