//! The API of a docker daemon behind a Unix socket, which podman has as well: only what `--load` needs of it.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use reqwest::{Body, Client, Response};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::client::Registry;
use super::error::RegistryError;
use super::words::{deepest, refused};

/// A daemon that is there answers this at once.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// What a daemon says of one archive is short.
const ANSWER_LIMIT: usize = 1 << 20;
/// Chunks of the archive that wait to be sent.
const QUEUE: usize = 16;
const CHUNK: usize = 128 << 10;

/// An archive on its way into a daemon. Dropped before its end, the daemon takes nothing of it.
#[derive(Debug)]
pub struct Loading {
    chunks: Option<mpsc::Sender<io::Result<Bytes>>>,
    pending: Vec<u8>,
    /// `None` once it was told.
    outcome: Option<oneshot::Receiver<Result<String, RegistryError>>>,
}

/// A line of what a daemon says while it loads.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    error: String,
}

/// What a daemon says instead of doing something.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Registry {
    /// Whether a daemon listens at `socket`; why not is the error.
    pub fn ping_daemon(&self, socket: &Path) -> Result<(), RegistryError> {
        let socket = socket.to_owned();
        self.run(async move |_| {
            let doing = format!("asking the daemon at {}", socket.display());
            let request = client(&socket)?.get("http://localhost/_ping").timeout(PING_LIMIT);
            let answer = request
                .send()
                .await
                .map_err(|e| unreachable(&doing, &socket, &e))?;
            match answer.status().as_u16() {
                200 => Ok(()),
                _ => Err(refusal(&doing, &socket, answer).await),
            }
        })
    }

    /// Begins to load an archive into the daemon at `socket`: write it, then [`Loading::finish`].
    pub fn load_into_daemon(&self, socket: &Path) -> Result<Loading, RegistryError> {
        let (handle, _) = self.engine()?;
        let (chunks, receiver) = mpsc::channel(QUEUE);
        let (sender, outcome) = oneshot::channel();
        let socket = socket.to_owned();
        handle.spawn(async move {
            let _ = sender.send(load(&socket, Body::wrap(Chunks(receiver))).await);
        });
        Ok(Loading {
            chunks: Some(chunks),
            pending: Vec::with_capacity(CHUNK),
            outcome: Some(outcome),
        })
    }
}

impl Loading {
    /// Waits for the daemon to have taken all of it; what it said of it.
    pub fn finish(mut self) -> Result<String, RegistryError> {
        self.send().map_err(RegistryError::Source)?;
        self.chunks = None;
        self.answer()
    }

    /// What the daemon says of an archive of which it takes no more, or that is all sent.
    fn answer(&mut self) -> Result<String, RegistryError> {
        let outcome = self
            .outcome
            .take()
            .and_then(|outcome| outcome.blocking_recv().ok());
        outcome.unwrap_or_else(|| Err(RegistryError::Start("the client has ended".to_owned())))
    }

    fn send(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        let sent = self
            .chunks
            .as_ref()
            .is_some_and(|chunks| chunks.blocking_send(Ok(Bytes::from(chunk))).is_ok());
        if sent {
            return Ok(());
        }
        Err(match self.answer() {
            Ok(_) => io::Error::other("the daemon answered before it had all of the archive"),
            Err(error) => io::Error::other(error),
        })
    }
}

impl Write for Loading {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        // Without this the daemon would take what has come for the whole.
        if let Some(chunks) = self.chunks.take() {
            let _ = chunks.blocking_send(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// A body whose bytes come through a channel; an error in it breaks the request off.
struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

async fn load(socket: &Path, body: Body) -> Result<String, RegistryError> {
    let doing = format!("loading into the daemon at {}", socket.display());
    let request = client(socket)?
        .post("http://localhost/images/load?quiet=1")
        .header(reqwest::header::CONTENT_TYPE, "application/x-tar")
        .body(body);
    let mut answer = request
        .send()
        .await
        .map_err(|e| unreachable(&doing, socket, &e))?;
    if answer.status().as_u16() != 200 {
        return Err(refusal(&doing, socket, answer).await);
    }
    let mut text = Vec::new();
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|e| unreachable(&doing, socket, &e))?
    {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_LIMIT {
            return Err(refused(&doing, "its answer does not end".to_owned()));
        }
    }
    let mut said = String::new();
    for line in serde_json::Deserializer::from_slice(&text).into_iter::<Said>() {
        let line = line.map_err(|_| refused(&doing, "its answer cannot be understood".to_owned()))?;
        if !line.error.is_empty() {
            return Err(refused(&doing, line.error));
        }
        said.push_str(&line.stream);
    }
    Ok(said)
}

fn client(socket: &Path) -> Result<Client, RegistryError> {
    // A client is never made without: it could speak TLS, even if this one does not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
        .unix_socket(socket)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_certs_only([])
        .build();
    client.map_err(|error| RegistryError::Start(deepest(&error)))
}

async fn refusal(doing: &str, socket: &Path, mut answer: Response) -> RegistryError {
    let status = answer.status().as_u16();
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_LIMIT {
            break;
        }
    }
    let detail = match serde_json::from_slice::<Refusal>(&text) {
        Ok(refusal) => format!(": {}", refusal.message),
        Err(_) => String::new(),
    };
    RegistryError::Status {
        doing: doing.to_owned(),
        host: socket.display().to_string(),
        status,
        detail,
    }
}

fn unreachable(doing: &str, socket: &Path, error: &reqwest::Error) -> RegistryError {
    RegistryError::Network {
        doing: doing.to_owned(),
        host: socket.display().to_string(),
        cause: deepest(error),
        remedy: "",
    }
}
