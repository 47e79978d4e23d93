//! A token server (distribution: "Token Authentication") for a registry of [`super::common`]: who asks gets what he asks for.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and a test that cannot be set up has failed"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::authority::{Signed, authority, sign};
use super::server::{Answer, Request, Server};

/// The registry takes tokens as long as this after they have expired, for the sake of clocks.
const LEEWAY: u64 = 60;

pub struct TokenServer {
    pub server: Server,
    pub signed: Arc<Signed>,
    _dir: tempfile::TempDir,
}

impl TokenServer {
    /// Its tokens are good for `lifetime`. Only who knows `login` (`user:password`) gets one, if it is given.
    pub fn start(lifetime: Duration, login: Option<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signed = Arc::new(authority(dir.path(), "token"));
        let signer = Arc::clone(&signed);
        let server = Server::start(move |request| {
            let wanted = login.map(|login| format!("Basic {}", STANDARD.encode(login)));
            if wanted
                .as_deref()
                .is_some_and(|wanted| request.header("authorization") != Some(wanted))
            {
                return Answer::new(401);
            }
            let token = token(&signer, request, lifetime);
            Answer::of(format!(
                r#"{{"token":"{token}","expires_in":{}}}"#,
                lifetime.as_secs()
            ))
        });
        Self {
            server,
            signed,
            _dir: dir,
        }
    }

    pub fn realm(&self) -> String {
        self.server.url("/token")
    }

    pub fn certificate(&self) -> &Path {
        &self.signed.certificate
    }
}

fn token(signed: &Signed, request: &Request, lifetime: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let pem = std::fs::read_to_string(&signed.certificate).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    let decoded = |text: &str| text.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/");
    let scopes = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .map(decoded);
    let access: Vec<_> = scopes
        .filter_map(|scope| {
            let parts: Vec<String> = scope.split(':').map(str::to_owned).collect();
            let [kind, name, actions] = parts.try_into().ok()?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(serde_json::json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let claims = serde_json::json!({
        "iss": "test", "sub": "tester", "aud": "test", "jti": format!("{now}"),
        "iat": now, "nbf": now - 10, "exp": now + lifetime.as_secs() - LEEWAY, "access": access,
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(&signed.key, &text));
    format!("{text}.{signature}")
}
