//! How is it said what went wrong, and is it worth another attempt?

use std::time::Duration;

use rbuild_cache::Digest;

use super::error::RegistryError;
use super::retry::{Failure, Retry};

pub(super) fn refused(doing: &str, reason: String) -> RegistryError {
    RegistryError::Refused {
        doing: doing.to_owned(),
        reason,
    }
}

pub(super) fn stalled(doing: &str, address: &str, limit: Duration) -> Failure {
    let error = RegistryError::Network {
        doing: doing.to_owned(),
        host: address.to_owned(),
        cause: format!("no answer within {} s", limit.as_secs()),
        remedy: "",
    };
    Failure::new(error, Retry::After(None))
}

/// Words for what the network did.
pub(super) fn network(doing: &str, address: &str, error: &reqwest::Error) -> Failure {
    let cause = deepest(error);
    let certificate = cause.contains("certificate");
    let remedy = if certificate {
        "; trust its certificate on this machine, or name the host with --insecure-registry"
    } else if cause.contains("InvalidContentType") || cause.contains("corrupt message") {
        "; if it speaks plain http, name the host with --insecure-registry"
    } else if error.is_connect() {
        "; check the name, the network and the proxy variables"
    } else {
        ""
    };
    let retry = if certificate || cause.contains("head is too large") {
        Retry::No
    } else if error.is_connect() && !was_reset(error) {
        Retry::Connect
    } else {
        Retry::After(None)
    };
    let (doing, host) = (doing.to_owned(), address.to_owned());
    Failure::new(
        RegistryError::Network {
            doing,
            host,
            cause,
            remedy,
        },
        retry,
    )
}

/// Whether somebody was there, and hung up.
fn was_reset(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind as Kind;
    let mut current: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = current {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && matches!(
                error.kind(),
                Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof
            )
        {
            return true;
        }
        current = error.source();
    }
    false
}

/// The last error of a chain: the others say "error sending request" and the address.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    printable(&current.to_string())
}

/// `: message` from the body of an error (distribution-spec, "Error Codes").
pub(super) fn error_detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(body) else {
        return String::new();
    };
    let texts: Vec<String> = errors
        .iter()
        .take(3)
        .map(|entry| {
            if entry.message.is_empty() {
                &entry.code
            } else {
                &entry.message
            }
        })
        .filter(|text| !text.is_empty())
        .map(|text| printable(text))
        .collect();
    if texts.is_empty() {
        String::new()
    } else {
        format!(": {}", texts.join("; "))
    }
}

/// The blobs that a manifest names and the registry does not have, as far as it says; `None` when that is not what is wrong.
pub(super) fn lost_blobs(body: &[u8]) -> Option<Vec<Digest>> {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: String,
        #[serde(default)]
        detail: serde_json::Value,
    }
    let Errors { errors } = serde_json::from_slice(body).ok()?;
    let mut unknown = errors
        .iter()
        .filter(|entry| matches!(entry.code.as_str(), "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN"))
        .peekable();
    unknown.peek()?;
    // Some say the digest, others an object with it.
    let digest = |entry: &Entry| {
        let detail = &entry.detail;
        let said = [detail, &detail["digest"], &detail["Digest"]];
        said.iter().find_map(|said| said.as_str()?.parse().ok())
    };
    Some(unknown.filter_map(digest).collect())
}

/// Text from outside, for a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}
