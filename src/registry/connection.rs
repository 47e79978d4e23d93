//! How is a host connected to? Certificates, proxies, and the names that lead nowhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::Client;

use super::certificates::HostCertificates;
use super::error::RegistryError;
use super::fetch::REFUSED_ADDRESS;
use super::origin::{is_link_local, is_local};
use super::words::deepest;

/// To connect, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The connections; they belong to a runtime and end with it.
#[derive(Default)]
pub(super) struct Clients {
    common: [OnceLock<Client>; 6],
    /// For hosts with certificates of their own, `None` for the others.
    own: Mutex<HashMap<String, Option<Client>>>,
}

/// How a host is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// With its certificate verified.
    Verified,
    /// Whatever its certificate.
    Unverified,
    /// The same on this machine, never through a proxy.
    Local,
    /// As `Verified`, never through a proxy.
    VerifiedLocal,
    /// As `Verified`, but no name may lead to a link-local address.
    Web,
    /// As `Web`, where another host has led: no name may lead to this machine either.
    WebAway,
}

impl Clients {
    /// For servers that are no registries: their certificates are verified. `away` says that another host, not of this
    /// machine, has led there.
    pub(super) fn web(&self, local: bool, link_local: bool, away: bool) -> Result<&Client, RegistryError> {
        self.get(match (local, link_local, away) {
            (true, ..) => Reach::VerifiedLocal,
            (_, true, _) => Reach::Verified,
            (.., true) => Reach::WebAway,
            (.., false) => Reach::Web,
        })
    }

    /// Made when first needed: reading the machine's certificates takes time.
    pub(super) fn get(&self, reach: Reach) -> Result<&Client, RegistryError> {
        let slot = &self.common[reach as usize];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = Self::make(reach, &HostCertificates::default(), Path::new(""))?;
        Ok(slot.get_or_init(|| client))
    }

    /// The one for a host that `directories` know.
    pub(super) fn own(
        &self,
        directories: &[PathBuf],
        address: &str,
        reach: Reach,
    ) -> Result<Option<Client>, RegistryError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = own.get(address) {
            return Ok(known.clone());
        }
        let found = HostCertificates::find(directories, address)?;
        let client = found
            .map(|found| Self::make(reach, &found, Path::new(address)))
            .transpose()?;
        own.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// `place` names the certificates in errors.
    fn make(reach: Reach, own: &HostCertificates, place: &Path) -> Result<Client, RegistryError> {
        // Fails when there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .referer(false);
        if matches!(reach, Reach::Unverified | Reach::Local) {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if matches!(reach, Reach::Local | Reach::VerifiedLocal) {
            builder = builder.no_proxy();
        }
        if matches!(reach, Reach::Web | Reach::WebAway) {
            let away = reach == Reach::WebAway;
            builder = builder.dns_resolver(Names { away });
        }
        let wrong = |e: reqwest::Error| RegistryError::Certificate {
            path: place.to_owned(),
            reason: deepest(&e),
        };
        for authority in &own.authorities {
            builder =
                builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(authority).map_err(wrong)?);
        }
        if let Some(identity) = &own.identity {
            builder = builder.identity(reqwest::Identity::from_pem(identity).map_err(wrong)?);
        }
        builder.build().map_err(|e| RegistryError::Start(deepest(&e)))
    }
}

/// Looks names up, and does not find link-local addresses: a name that leads there is a way around the rule that
/// such addresses are not asked. So is one of this machine that another host named.
#[derive(Debug, Clone, Copy)]
struct Names {
    away: bool,
}

impl Names {
    fn refuses(self, address: std::net::IpAddr) -> bool {
        let text = address.to_string();
        is_link_local(&text) || (self.away && is_local(&text))
    }
}

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let names = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (refused, fine): (Vec<_>, Vec<_>) = found.partition(|address| names.refuses(address.ip()));
            if fine.is_empty() && !refused.is_empty() {
                return Err(format!("{} {REFUSED_ADDRESS}", name.as_str()).into());
            }
            Ok(Box::new(fine.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_13_names_lead_not_everywhere() {
        for (address, direct, away) in [
            ("169.254.169.254", true, true),
            ("::ffff:169.254.169.254", true, true),
            ("fe80::1", true, true),
            ("127.0.0.1", false, true),
            ("::1", false, true),
            ("0.0.0.0", false, true),
            ("10.0.0.1", false, false),
        ] {
            let refused = |away| Names { away }.refuses(address.parse().unwrap());
            assert_eq!((refused(false), refused(true)), (direct, away), "{address}");
        }
    }
}
