//! The life of the process: from flags to the last connection.

use std::time::Duration;

use berth_runtime::{Error, Result, error::Context, supervisor::Spawner};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, Flags},
    engine::{Engine, roots::Roots},
    handlers,
    listen::{self, Inherited, Listener, Server},
    pidfile::PidFile,
    telemetry::Log,
};

/// Runs the engine until it is told to stop. The process must have a single thread and nothing to lose.
///
/// # Errors
/// Why the engine could not start; what was made is undone.
pub fn run(flags: &Flags) -> Result<()> {
    let config = Config::load(flags)?;
    if flags.validate {
        return Ok(());
    }
    // Modes are always given in full.
    umask(Mode::empty());
    // Before there are threads, and before there is anything that a fork should not inherit.
    let spawner = Spawner::fork()?.renewable();
    let log = Log::start(&config)?;
    let roots = Roots::take(&config)?;
    let _pidfile = PidFile::write(&config.pidfile)?;
    let listeners = listen::bind(&config, &mut Inherited::from_env())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("berth-worker")
        .build()
        .context(|| "cannot start the runtime")?;
    let served = runtime.block_on(serve(flags, config, roots, spawner, listeners, &log));
    // Blocking work that is still under way must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn serve(
    flags: &Flags,
    config: Config,
    roots: Roots,
    spawner: Spawner,
    listeners: Vec<Listener>,
    log: &Log,
) -> Result<()> {
    let mut signals = Signals::new()?;
    let engine = Engine::open(config, roots, spawner).await?;
    let server = Server::new(handlers::app(engine.clone()));
    for listener in listeners {
        tracing::info!(address = %listener.address, "listening");
        server.listen(listener)?;
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, instance = %engine.config.load().instance, id = %engine.id, "ready");
    notify(&[NotifyState::Ready]);
    while signals.next().await == Told::Reload {
        reload(flags, &engine, log);
    }
    tracing::info!("stopping; containers keep running");
    notify(&[NotifyState::Stopping]);
    let limit = engine.config.load().shutdown_timeout;
    server.finish(limit, signals.stop_again()).await;
    engine.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Reads the configuration again. A mistake in it changes nothing.
fn reload(flags: &Flags, engine: &Engine, log: &Log) {
    match Config::load(flags) {
        Ok(config) => {
            log.set_level(config.log_level);
            engine.reload(&config);
            tracing::info!("the configuration was reloaded");
        }
        Err(error) => tracing::error!(%error, "the configuration was not reloaded"),
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Reload,
    Stop,
}

/// The signals that mean something here.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let open = |kind| signal(kind).map_err(|e| Error::internal("cannot receive signals").caused_by(e));
        Ok(Self {
            hangup: open(SignalKind::hangup())?,
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    async fn stop_again(&mut self) {
        while self.next().await != Told::Stop {}
    }
}
