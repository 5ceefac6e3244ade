//! The command line: what may be asked of the program, and what its exit codes mean.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::config::{self, ConfigErrors, Settings};
use crate::telemetry;

/// `EX_USAGE` of `sysexits.h`: the command line or the configuration is wrong.
const USAGE: u8 = 64;
/// `EX_SOFTWARE`: our fault.
const SOFTWARE: u8 = 70;

const EXAMPLES: &str = "\
Examples:
  relevo dev                                try it: nothing to configure, nothing leaves the machine
  relevo serve --config /etc/relevo.toml    run a node
  relevo check-config                       see every setting and where it comes from
  RELEVO_HTTP__LISTEN=0.0.0.0:8080 relevo serve

Exit codes:
  0   stopped as asked
  64  the command line or the configuration is wrong
  70  an internal error
  73  the data folder cannot be created or written, or the address cannot be listened on
  75  the data folder is in use by another relevo; try again when that one has stopped";

const SERVE_HELP: &str = "\
Run the node until SIGTERM or SIGINT.

On the first signal it takes nothing new, finishes what is in hand (for at most shutdown.drain) and exits with 0. \
A second signal ends it at once. Whatever was accepted is on the disk in either case and is sent after the next \
start.

Without a configured auth.api_key, a key is generated on the first start, printed once, and kept in the data folder.";

const DEV_HELP: &str = "\
Run a node, a sandbox that stands in for WhatsApp, and an instance `demo` on it, in one process on loopback.

Prints the URL, the API key and a curl line that sends a first message. Nothing leaves this machine, and nobody \
receives anything.";

const SANDBOX_HELP: &str = "\
Run the sandbox alone: an HTTP server that speaks Meta's Graph API, checks what it is sent, and answers with \
statuses, webhooks and, when asked to, errors.

Any client of the Cloud API can be pointed at it. For a node: RELEVO_CLOUD_API__BASE_URL=http://127.0.0.1:8090 and \
RELEVO_EGRESS__ALLOW_PRIVATE=true.";

const CHECK_HELP: &str = "\
Check the configuration and print it: every key, the value in force, and where it comes from. Secrets are masked.

Nothing is started, opened or written. Exits with 64 and all problems at once when there are any.";

/// A WhatsApp messaging node in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "relevo",
    version,
    about = "A WhatsApp messaging node: REST in, WhatsApp out, events back",
    after_help = "Try `relevo dev`, or `relevo help COMMAND`. `relevo --help` has examples and the exit codes.",
    after_long_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node.
    #[command(long_about = SERVE_HELP)]
    Serve(ConfigArgs),
    /// Run a node, a sandbox and an instance to try things on.
    #[command(long_about = DEV_HELP)]
    Dev(ConfigArgs),
    /// Run a stand-in for Meta's servers.
    #[command(long_about = SANDBOX_HELP)]
    Sandbox {
        /// Where to listen; sandbox.listen (127.0.0.1:8090) when not given.
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
        #[command(flatten)]
        layers: ConfigArgs,
    },
    /// Check the configuration and show every setting.
    #[command(long_about = CHECK_HELP)]
    CheckConfig(ConfigArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// A TOML file over the defaults; RELEVO_CONFIG when not given.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Also take the variables of the systems that relevo replaces: API_KEY, APP_PORT, ACCESS_TOKEN, ...
    #[arg(long)]
    legacy_env: bool,
}

/// Why the program ends without having done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not always an error: clap reports `--help` and `--version` this way.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("logging could not begin: {0}")]
    Telemetry(#[from] telemetry::Error),
    #[error("the system refuses what the node needs to run: {0}")]
    System(#[from] io::Error),
    #[error(transparent)]
    App(#[from] app::Error),
}

impl Error {
    /// Tells the user, and gives the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Error::Usage(message) => {
                let wanted = !message.use_stderr();
                let _unwritable = message.print();
                if wanted { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
            }
            error => {
                print_error(&error);
                ExitCode::from(error.exit_code())
            }
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Config(_) => USAGE,
            Error::Telemetry(_) | Error::System(_) => SOFTWARE,
            Error::App(error) => error.exit_code(),
        }
    }
}

impl Cli {
    /// Understands the command line, the program's name first.
    pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        Ok(Self::try_parse_from(args)?)
    }

    /// The configuration that the command line and the environment ask for.
    pub fn settings(&self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Settings, Error> {
        let (Command::Serve(layers)
        | Command::Dev(layers)
        | Command::CheckConfig(layers)
        | Command::Sandbox { layers, .. }) = &self.command;
        let mut settings = config::load(layers.config.as_deref(), env, layers.legacy_env)?;
        if let Command::Sandbox { listen: Some(listen), .. } = &self.command {
            settings.sandbox_listen = *listen;
        }
        Ok(settings)
    }

    /// Does what was asked, until it is done or a signal ends it.
    pub async fn run(self, settings: Settings) -> Result<(), Error> {
        match self.command {
            Command::CheckConfig(_) => print_settings(&settings),
            Command::Serve(_) => {
                let shutdown = install_signal_handlers(&settings)?;
                app::serve(settings, shutdown).await?;
            }
            Command::Dev(_) => {
                let shutdown = install_signal_handlers(&settings)?;
                app::dev(settings, shutdown).await?;
            }
            Command::Sandbox { .. } => {
                let shutdown = install_signal_handlers(&settings)?;
                app::sandbox(settings, shutdown).await?;
            }
        }
        Ok(())
    }
}

/// The runtime on which everything lives: one worker per core.
pub fn runtime() -> Result<Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("relevo").build()?)
}

/// What every command that stays does first: it says the warnings and heeds the signals. The first SIGTERM or
/// SIGINT cancels the token, the second ends the process.
fn install_signal_handlers(settings: &Settings) -> Result<CancellationToken, Error> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let shutdown = CancellationToken::new();
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(watch_signals(terminate, interrupt, shutdown.clone()));
    Ok(shutdown)
}

async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: CancellationToken) {
    for last in [false, true] {
        let (name, number) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        };
        if last {
            print_error(&format_args!("{name}: stopped at once; what was accepted is kept"));
            // As shells count a process that a signal ended.
            std::process::exit(128 + number);
        }
        tracing::info!(signal = name, "stopping; another signal stops at once");
        shutdown.cancel();
    }
}

/// A reader that goes away in the middle (`| head`) is no error.
fn print_settings(settings: &Settings) {
    let mut out = io::stdout().lock();
    let _unread = write!(out, "configuration is valid\n\n{}", settings.effective());
    for warning in &settings.warnings {
        print_error(&format_args!("warning: {warning}"));
    }
}

fn print_error(what: &dyn Display) {
    let _unwritable = writeln!(io::stderr(), "relevo: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, Error> {
        Cli::parse_args(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_parse() {
        for line in [
            "relevo serve",
            "relevo serve --config relevo.toml --legacy-env",
            "relevo dev",
            "relevo sandbox --listen 127.0.0.1:0",
            "relevo check-config --config x",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn misuse_exits_with_64_and_help_does_not() {
        for line in ["relevo", "relevo sreve", "relevo serve --confg x", "relevo sandbox --listen here"] {
            let error = parse(line).unwrap_err();
            assert!(matches!(&error, Error::Usage(message) if message.use_stderr()), "{line}");
            assert_eq!(error.exit_code(), USAGE, "{line}");
        }
        for line in ["relevo --help", "relevo --version", "relevo help serve", "relevo dev -h"] {
            let error = parse(line).unwrap_err();
            assert!(matches!(&error, Error::Usage(message) if !message.use_stderr()), "{line}");
        }
    }

    #[test]
    fn the_command_line_says_where_the_sandbox_listens() {
        let cli = parse("relevo sandbox --listen 127.0.0.1:9").unwrap();
        assert_eq!(cli.settings([]).unwrap().sandbox_listen.port(), 9);
        assert_eq!(parse("relevo sandbox").unwrap().settings([]).unwrap().sandbox_listen.port(), 8090);
    }

    #[tokio::test]
    async fn the_first_signal_cancels_the_token() {
        let shutdown = CancellationToken::new();
        // Signals that mean nothing to the test's process.
        let (one, other) = (SignalKind::user_defined1(), SignalKind::user_defined2());
        let watching =
            tokio::spawn(watch_signals(signal(one).unwrap(), signal(other).unwrap(), shutdown.clone()));
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        shutdown.cancelled().await;
        watching.abort();
    }
}
