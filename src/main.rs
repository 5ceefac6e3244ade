//! The `relevo` binary: parses the command line, starts logging and runs the command.

use std::process::ExitCode;

use relevo::cli::{self, Cli};
use relevo::{config, telemetry};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn run() -> Result<(), cli::Error> {
    let cli = Cli::parse_args(std::env::args_os())?;
    let settings = cli.settings(config::environment())?;
    telemetry::init(&settings.log)?;
    cli::runtime()?.block_on(cli.run(settings))
}
