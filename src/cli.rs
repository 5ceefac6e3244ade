//! The command line: commands, arguments and exit codes.

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
/// `EX_SOFTWARE`: an internal error.
const SOFTWARE: u8 = 70;

const EXAMPLES: &str = "\
Examples:
  relevo dev                                try relevo: no configuration, no traffic beyond this machine
  relevo serve --config /etc/relevo.toml    run a node
  relevo check-config                       show every setting and its source
  RELEVO_HTTP__LISTEN=0.0.0.0:8080 relevo serve

Exit codes:
  0   stopped by a signal, or the command is done
  64  the command line or the configuration is wrong
  70  an internal error
  65  the database is not complete; see docs/damage.md
  73  the data folder cannot be created or written, or the address cannot be listened on
  75  the data folder is in use by another relevo process; try again after that process has stopped";

const SERVE_HELP: &str = "\
Run the node until SIGTERM or SIGINT.

On the first signal the node accepts no new requests, finishes work in flight (for at most shutdown.drain) and \
exits with 0. A second signal ends it at once. Accepted messages are on the disk in either case and are sent after \
the next start.

The start reads all of the database and refuses one that is not complete; docs/damage.md says what to do then.

Without a configured auth.api_key, the first start generates a key, prints it once and stores it in the data folder.";

const DEV_HELP: &str = "\
Run a node, a sandbox that simulates WhatsApp, and an instance `demo` on it, in one process on loopback.

Prints the URL, the API key and a curl command that sends a first message. No message leaves this machine.";

const SANDBOX_HELP: &str = "\
Run the sandbox alone: an HTTP server that implements Meta's Graph API, validates requests, and sends statuses, \
webhooks and, on demand, errors.

Any client of the Cloud API can use it. For a node: RELEVO_CLOUD_API__BASE_URL=http://127.0.0.1:8090 and \
RELEVO_EGRESS__ALLOW_PRIVATE=true.";

const CHECK_HELP: &str = "\
Check the configuration and print every key with its effective value and its source. Secrets are masked.

The command starts, opens and writes nothing. It exits with 64 and prints all problems if there are any.";

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
    Serve(NodeArgs),
    /// Run a node, a sandbox and a demo instance, for a trial.
    #[command(long_about = DEV_HELP)]
    Dev(NodeArgs),
    /// Run a simulation of Meta's servers.
    #[command(long_about = SANDBOX_HELP)]
    Sandbox {
        /// Address to listen on; default: sandbox.listen (127.0.0.1:8090).
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
        #[command(flatten)]
        layers: ConfigArgs,
    },
    /// Check the configuration and print every setting.
    #[command(long_about = CHECK_HELP)]
    CheckConfig(ConfigArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    #[command(flatten)]
    layers: ConfigArgs,
    /// Start although the database is not complete: set it aside, take over what can be read of it, and continue without
    /// the rest. Without effect on a complete database.
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// A TOML file whose values override the defaults; default: the variable RELEVO_CONFIG.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Also read the variables of the systems that relevo replaces: API_KEY, APP_PORT, ACCESS_TOKEN, ...
    #[arg(long)]
    legacy_env: bool,
}

/// Reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not always an error: clap reports `--help` and `--version` this way.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The log subscriber could not be installed.
    #[error("cannot start logging: {0}")]
    Telemetry(#[from] telemetry::Error),
    /// The runtime or the signal handlers could not be created.
    #[error("cannot create the runtime or the signal handlers: {0}")]
    System(#[from] io::Error),
    /// The node or the sandbox failed.
    #[error(transparent)]
    App(#[from] app::Error),
}

impl Error {
    /// Prints the error and returns the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Error::Usage(message) => {
                let is_error = message.use_stderr();
                let _unwritable = message.print();
                if is_error { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
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
    /// Parses the command line, whose first argument is the program's name.
    ///
    /// # Errors
    ///
    /// The command line is wrong, or it asks for the help or the version.
    pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        Ok(Self::try_parse_from(args)?)
    }

    /// Loads the configuration from the command line and the environment.
    ///
    /// # Errors
    ///
    /// The configuration has problems.
    pub fn settings(&self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Settings, Error> {
        let (Command::Serve(NodeArgs { layers, .. })
        | Command::Dev(NodeArgs { layers, .. })
        | Command::CheckConfig(layers)
        | Command::Sandbox { layers, .. }) = &self.command;
        let mut settings = config::load(layers.config.as_deref(), env, layers.legacy_env)?;
        if let Command::Sandbox { listen: Some(listen), .. } = &self.command {
            settings.sandbox_listen = *listen;
        }
        if let Command::Serve(node) | Command::Dev(node) = &self.command {
            settings.store.accept_loss = node.accept_loss;
        }
        Ok(settings)
    }

    /// Runs the command until it is done or a signal ends it.
    ///
    /// # Errors
    ///
    /// The node or the sandbox failed.
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

/// The tokio runtime of the process, with one worker per core.
///
/// # Errors
///
/// The system refuses to create the threads.
pub fn runtime() -> Result<Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("relevo").build()?)
}

/// Logs the warnings of the configuration and installs the signal handlers. The first SIGTERM or SIGINT cancels the
/// token; the second ends the process.
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
    for is_second in [false, true] {
        let (name, number) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        };
        if is_second {
            print_error(&format_args!("{name}: stopped at once; accepted messages are in the data folder"));
            // The exit code that shells report for a process that a signal ended.
            std::process::exit(128 + number);
        }
        tracing::info!(signal = name, "signal received; draining, a second signal stops at once");
        shutdown.cancel();
    }
}

/// Prints every setting. A closed pipe (`| head`) is not an error.
fn print_settings(settings: &Settings) {
    let mut out = io::stdout().lock();
    let _unread = write!(out, "configuration is valid\n\n{}", settings.effective());
    for warning in &settings.warnings {
        print_error(&format_args!("warning: {warning}"));
    }
}

fn print_error(error: &dyn Display) {
    let _unwritable = writeln!(io::stderr(), "relevo: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, Error> {
        Cli::parse_args(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn command_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_commands_parse() {
        for line in [
            "relevo serve",
            "relevo serve --config relevo.toml --legacy-env",
            "relevo serve --accept-loss",
            "relevo dev",
            "relevo sandbox --listen 127.0.0.1:0",
            "relevo check-config --config x",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_command_line_exits_with_64_and_help_does_not() {
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
    fn listen_argument_overrides_the_sandbox_address() {
        let cli = parse("relevo sandbox --listen 127.0.0.1:9").unwrap();
        assert_eq!(cli.settings([]).unwrap().sandbox_listen.port(), 9);
        assert_eq!(parse("relevo sandbox").unwrap().settings([]).unwrap().sandbox_listen.port(), 8090);
    }

    #[test]
    fn loss_is_accepted_by_argument_only() {
        for (line, accepted) in [
            ("relevo serve", false),
            ("relevo serve --accept-loss", true),
            ("relevo dev --accept-loss", true),
        ] {
            assert_eq!(parse(line).unwrap().settings([]).unwrap().store.accept_loss, accepted, "{line}");
        }
    }

    #[tokio::test]
    async fn first_signal_cancels_the_token() {
        let shutdown = CancellationToken::new();
        // Signals that the test runner does not use.
        let (usr1, usr2) = (SignalKind::user_defined1(), SignalKind::user_defined2());
        let watching =
            tokio::spawn(watch_signals(signal(usr1).unwrap(), signal(usr2).unwrap(), shutdown.clone()));
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        shutdown.cancelled().await;
        watching.abort();
    }
}
