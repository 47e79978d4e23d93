//! `rbuild login` and `rbuild logout`: the passwords of registries, kept where docker keeps them.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};

use super::Context;
use super::context::{note, print};
use crate::registry::credentials::Login;
use crate::registry::keeping::{Kept, usual_file};
use crate::registry::{CredentialFiles, Registry};

/// A password is not longer.
const PASSWORD_LIMIT: u64 = 64 << 10;
const HUB: &str = "docker.io";

/// `rbuild login [SERVER]`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password or token; other users of this machine can see it, --password-stdin hides it
    #[arg(short, long, value_name = "TEXT", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Host of the registry [default: docker.io]
    #[arg(value_name = "HOST[:PORT]")]
    server: Option<String>,
}

/// `rbuild logout [SERVER]`.
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// Host of the registry [default: docker.io]
    #[arg(value_name = "HOST[:PORT]")]
    server: Option<String>,
}

/// Runs `login`.
pub fn login(args: LoginArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = host(args.server.as_deref())?;
    let path = file()?;
    let user = match args.username {
        Some(user) => user,
        None => {
            ensure!(
                !args.password_stdin && std::io::stdin().is_terminal(),
                "logging in to {host}: who are you? give --username NAME, and --password-stdin where nobody can be asked"
            );
            ask("Username: ")?
        }
    };
    ensure!(
        !user.is_empty() && !user.contains(':'),
        "logging in to {host}: {user:?} is no user name"
    );
    let password = match args.password {
        Some(password) => {
            note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password
        }
        None if args.password_stdin => {
            let mut text = String::new();
            let stdin = std::io::stdin()
                .lock()
                .take(PASSWORD_LIMIT)
                .read_to_string(&mut text);
            stdin.context("reading the password from standard input")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => {
            ensure!(
                std::io::stdin().is_terminal(),
                "logging in to {host}: cannot ask for a password here: give --password-stdin"
            );
            ask_secretly()?
        }
    };
    ensure!(
        !password.is_empty(),
        "logging in to {host}: the password is empty"
    );
    let given = Login::Password {
        user: user.clone(),
        password: password.clone(),
    };
    let options = context.config.registry_options(&context.insecure);
    let registry = Registry::with_credentials(options, CredentialFiles::given(&host, given));
    registry.ping(&host)?;
    match CredentialFiles::from_environment().keep(&path, &host, &user, &password)? {
        Kept::File(path) => note(&format!(
            "WARNING! Your credentials are stored unencrypted in '{}'. A credential helper (credsStore) keeps them better.",
            path.display()
        )),
        Kept::Helper(helper) => note(&format!("The password is kept by {helper}.")),
    }
    print("Login Succeeded\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `logout`.
pub fn logout(args: LogoutArgs) -> anyhow::Result<ExitCode> {
    let host = host(args.server.as_deref())?;
    print(format!("Removing login credentials for {host}\n"))?;
    if !CredentialFiles::from_environment().forget(&file()?, &host)? {
        note(&format!("Not logged in to {host}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn file() -> anyhow::Result<PathBuf> {
    usual_file().context("finding docker's config.json: neither DOCKER_CONFIG nor HOME is set")
}

/// The host, however people write it.
fn host(server: Option<&str>) -> anyhow::Result<String> {
    let Some(server) = server else {
        return Ok(HUB.to_owned());
    };
    let bare = server
        .strip_prefix("https://")
        .or(server.strip_prefix("http://"))
        .unwrap_or(server);
    let bare = bare.split('/').next().unwrap_or_default();
    match bare {
        "" => bail!("{server:?} is no host of a registry"),
        "index.docker.io" | "registry-1.docker.io" => Ok(HUB.to_owned()),
        bare => Ok(bare.to_owned()),
    }
}

fn ask(question: &str) -> anyhow::Result<String> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question}")
        .and_then(|()| stderr.flush())
        .context("asking")?;
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .context("reading from the terminal")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Without showing what is typed.
fn ask_secretly() -> anyhow::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = std::io::stdin();
    let shown = tcgetattr(&terminal).context("asking for a password")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).context("asking for a password")?;
    let answer = ask("Password: ");
    tcsetattr(&terminal, OptionalActions::Flush, &shown).context("asking for a password")?;
    note("");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host() {
        for (server, meant) in [
            (None, Some("docker.io")),
            (Some("https://index.docker.io/v1/"), Some("docker.io")),
            (Some("r.example:5000"), Some("r.example:5000")),
            (Some("https://r.example/v2/"), Some("r.example")),
            (Some(""), None),
            (Some("https://"), None),
        ] {
            assert_eq!(host(server).ok().as_deref(), meant, "{server:?}");
        }
    }
}
