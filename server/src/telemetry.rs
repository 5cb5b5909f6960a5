//! The engine's log: to standard error, as text or JSON, at a level that can change while it runs.

use std::io;

use berth_runtime::{Error, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{
    Config,
    settings::{LogFormat, LogLevel},
};

/// Changes the level of the log.
#[derive(Clone, Debug)]
pub struct Log(reload::Handle<LevelFilter, Registry>);

impl Log {
    /// Starts logging as `config` says.
    ///
    /// # Errors
    /// Internal, if this process logs already.
    pub fn start(config: &Config) -> Result<Self> {
        let (level, handle) = reload::Layer::new(filter(config.log_level));
        let output = fmt::layer().with_writer(io::stderr).with_target(false);
        let registry = tracing_subscriber::registry().with(level);
        match config.log_format {
            LogFormat::Text => registry.with(output.with_ansi(false)).try_init(),
            LogFormat::Json => registry
                .with(output.json().flatten_event(true).with_span_list(false))
                .try_init(),
        }
        .map_err(|e| Error::internal("cannot start the log").caused_by(e))?;
        Ok(Self(handle))
    }

    /// Logs at `level` from now on.
    pub fn set_level(&self, level: LogLevel) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::error!(%error, "the level of the log cannot be changed");
        }
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}
