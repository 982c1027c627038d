//! What each command does.

mod acting;
mod looking;
mod making;

use std::path::PathBuf;

use menagerie_supervisor::default_socket;

use crate::args::{Args, Command};
use crate::client::{Client, CommandError};
use crate::query::Query;
use crate::{bench, generate, render, run, top};

pub(crate) fn execute(args: Args) -> Result<(), CommandError> {
    let Args { command, socket, json, verbose } = args;
    let looked_for = socket.clone().or_else(socket_of_environment).unwrap_or_else(default_socket);
    let client = &Client::new(&looked_for);
    match command {
        Command::Run(args) => wait_on(2, run::run(run::Request { args, socket, json })),
        Command::Status => wait(looking::show(client, "/v1/status", json, render::status)),
        Command::Workers => {
            let table = |list: &Vec<_>| render::workers(list);
            wait(looking::show(client, "/v1/workers", json, table))
        }
        Command::Bundles => {
            let table = |list: &Vec<_>| render::bundles(list);
            wait(looking::show(client, "/v1/bundles", json, table))
        }
        Command::Crashes { about } => {
            let path = Query::about(&about).path("/v1/crashes");
            let table = |list: &Vec<_>| render::crashes(list, verbose);
            wait(looking::show(client, &path, json, table))
        }
        Command::Events { about, level, no_follow } => {
            wait(looking::events(client, Query::about(&about).level(level), no_follow, json))
        }
        Command::Logs { about, level, follow, tail } => {
            let query = Query::about(&about).level(level);
            wait(looking::logs(client, query, (follow, tail, about.since), json))
        }
        Command::Call { contract, function, arguments, timeout } => {
            let body = acting::call_body(&contract, &function, &arguments, timeout)?;
            wait(acting::call(client, body, verbose))
        }
        Command::Load { dir } => wait(acting::load(client, &dir, json, verbose)),
        Command::Reload { name } => wait(acting::reload(client, &name, json, verbose)),
        Command::Unload { name, cascade } => wait(acting::unload(client, &name, cascade, json)),
        Command::Restart { loader, rolling } => {
            wait(acting::restart(client, &loader, rolling, json))
        }
        // It measures threads and runtimes, and brings its own.
        Command::Bench(command) => bench::execute(command, json),
        Command::New { language, dir, no_build } => {
            wait(making::new(language, dir, !no_build, json))
        }
        Command::Keygen { out } => making::keygen(out, json),
        Command::Sign { dir, key } => wait(making::sign(dir, key, json)),
        Command::Check(args) => wait(making::check(args, json, verbose)),
        Command::Top { every, once } if json => wait(top::lines(client, every, once)),
        Command::Top { every, once } => wait(top::top(client, every, once)),
        Command::Completions { shell } => {
            render::verbatim(generate::completions(shell).trim_end());
            Ok(())
        }
        Command::Man { dir } => generate::man(&dir),
        Command::Doctor { config, worker_dir } => wait(making::doctor(config, worker_dir, json)),
    }
}

/// Does what a command does, on a runtime.
fn wait(work: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    wait_on(1, work)
}

fn wait_on(
    threads: usize,
    work: impl Future<Output = Result<(), CommandError>>,
) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    runtime.block_on(work)
}

/// Where the environment says that the socket is.
pub(crate) fn socket_of_environment() -> Option<PathBuf> {
    std::env::var_os("MENAGERIE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
}
