//! Unpacks the layers of an archive ahead of need.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Progress;
use crate::{
    Error, Result,
    image::{
        compress,
        digest::{Digest, HashingReader},
        layers::{Layer, Prepared},
        pins::{Lease, Resource},
        store::ImageStore,
        tar_reader::read_error,
    },
};

/// How many bytes go by between two reports.
const REPORT: u64 = 512 * 1024;

/// Layers of one archive, unpacked or on the way to it.
pub struct Unpacker<'s> {
    store: &'s ImageStore,
    lease: &'s Lease,
    progress: &'s dyn Progress,
    done: Mutex<HashMap<Digest, Result<Prepared>>>,
    stopped: AtomicBool,
}

impl<'s> Unpacker<'s> {
    pub fn new(store: &'s ImageStore, lease: &'s Lease, progress: &'s dyn Progress) -> Self {
        Self {
            store,
            lease,
            progress,
            done: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Unpacks `blob` and keeps the result, good or bad, until somebody asks.
    pub fn prepare(&self, blob: &Digest) {
        let known = self
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(blob);
        if known || self.stopped.load(Ordering::Relaxed) {
            return;
        }
        // Of an uncompressed layer the blob's digest is the diff ID; for a compressed one another image may know it.
        let known = self.store.diff_id_of(blob).unwrap_or(*blob);
        self.lease.pin(Resource::Layer(known));
        let result = self.unpack(blob, Some(&known));
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*blob, result);
    }

    /// Nothing more is needed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The layer number `at` of an image, made of `blob`, on top of the layers `below`.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if the blob is no layer or another one than `diff_id`.
    pub fn obtain(
        &self,
        blob: &Digest,
        at: usize,
        diff_id: &Digest,
        below: &[Digest],
        chain_id: Digest,
    ) -> Result<Arc<Layer>> {
        let ahead = self
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(blob);
        let prepared = match ahead {
            Some(result) => result?,
            None => self.unpack(blob, Some(diff_id))?,
        };
        same(at, diff_id, &prepared.diff_id())?;
        self.store.layers().complete(prepared, below, chain_id)
    }

    /// Checks that `blob` is the archive of a layer that is there already.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is another one.
    pub fn check(&self, blob: &Digest, at: usize, diff_id: &Digest) -> Result<()> {
        if blob == diff_id {
            return Ok(());
        }
        let ahead = match self.done.lock().unwrap_or_else(PoisonError::into_inner).get(blob) {
            Some(Ok(prepared)) => Some(prepared.diff_id()),
            _ => None,
        };
        let actual = match ahead.or_else(|| self.store.diff_id_of(blob)) {
            Some(known) => known,
            None => {
                let (_, plain) = compress::expand(self.store.blobs().open_blob(blob)?, self.store.limits())?;
                HashingReader::new(plain).drain().map_err(read_error)?.0
            }
        };
        same(at, diff_id, &actual)
    }

    fn unpack(&self, blob: &Digest, known: Option<&Digest>) -> Result<Prepared> {
        let open = || {
            let total = self.store.blobs().size(blob)?.unwrap_or_default();
            Ok(Reporting {
                inner: self.store.blobs().open_blob(blob)?,
                unpacker: self,
                blob,
                current: 0,
                reported: 0,
                total,
            })
        };
        self.store
            .layers()
            .prepare(blob, known, open, |key| self.lease.pin(Resource::Layer(key)))
    }
}

fn same(at: usize, expected: &Digest, got: &Digest) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid diffID for layer {at}: expected \"{expected}\", got \"{got}\""
    )))
}

/// Reports what is read, and ends when nothing more is needed.
struct Reporting<'a, R> {
    inner: R,
    unpacker: &'a Unpacker<'a>,
    blob: &'a Digest,
    current: u64,
    reported: u64,
    total: u64,
}

impl<R: Read> Read for Reporting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unpacker.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("loading was given up"));
        }
        let n = self.inner.read(buffer)?;
        self.current += n as u64;
        if self.current - self.reported >= REPORT || (n == 0 && self.reported < self.total) {
            self.reported = self.current;
            self.unpacker.progress.layer(self.blob, self.current, self.total);
        }
        Ok(n)
    }
}
