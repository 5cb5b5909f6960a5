//! Errors, as callers of runc read them: in the log file, and on standard error.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
};

use berth_runtime::Error;
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::json;

/// How the lines of the log file look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Where errors go.
#[derive(Debug)]
pub(super) struct Report {
    file: Option<PathBuf>,
    format: Format,
}

impl Report {
    pub fn new(file: Option<PathBuf>, format: Format) -> Self {
        Self { file, format }
    }

    /// Tells why the command failed. What cannot be told anywhere is not told.
    pub fn error(&self, error: &Error) {
        let text = error.to_string();
        let line = self.line(&text);
        let Some(path) = &self.file else {
            let _ = writeln!(io::stderr(), "{line}");
            return;
        };
        let logged = File::options()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| writeln!(file, "{line}"));
        let _ = writeln!(io::stderr(), "{text}");
        if let Err(e) = logged {
            let _ = writeln!(io::stderr(), "cannot write to the log {}: {e}", path.display());
        }
    }

    fn line(&self, text: &str) -> String {
        let time = Timestamp::now();
        match self.format {
            Format::Json => json!({"level": "error", "msg": text, "time": time.to_string()}).to_string(),
            Format::Text => format!("time=\"{time}\" level=error msg={text:?}"),
        }
    }
}
