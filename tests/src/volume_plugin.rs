//! A small volume plugin: directories below a shelf, over Docker's plugin protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use serde_json::{Value, json};

/// The volumes of a plugin, with who has them mounted.
type Shelf = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// A plugin that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct VolumePlugin {
    socket: PathBuf,
    shelf: Shelf,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl VolumePlugin {
    /// Starts one that listens on `socket` and keeps its volumes in the directory `root`, which is made.
    ///
    /// # Panics
    /// If it cannot.
    pub fn start(socket: &Path, root: &Path) -> Self {
        fs::create_dir_all(root).expect("a directory");
        let listener = UnixListener::bind(socket).expect("a socket");
        let (shelf, stopping) = (Shelf::default(), Arc::new(AtomicBool::new(false)));
        let (of, stop, root) = (Arc::clone(&shelf), Arc::clone(&stopping), root.to_owned());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                // A client that goes away is its own matter.
                let _ = serve(stream, &root, &of);
            }
        });
        Self {
            socket: socket.to_owned(),
            shelf,
            stopping,
            thread: Some(thread),
        }
    }

    /// How many mounts are in force.
    pub fn mounted(&self) -> usize {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.values().map(BTreeSet::len).sum()
    }

    /// Ends it and removes its socket.
    pub fn stop(self) {}
}

impl Drop for VolumePlugin {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes it.
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve(stream: UnixStream, root: &Path, shelf: &Shelf) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = answer(&path, &asked, root, shelf)
        .unwrap_or_else(|error| json!({"Err": error}))
        .to_string();
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    )
}

fn answer(path: &str, asked: &Value, root: &Path, shelf: &Shelf) -> Result<Value, String> {
    let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
    let name = asked["Name"].as_str().unwrap_or_default().to_owned();
    let id = asked["ID"].as_str().unwrap_or_default().to_owned();
    let place = root.join(&name);
    let missing = || format!("no volume {name} on the shelf");
    match path {
        "/Plugin.Activate" => return Ok(json!({"Implements": ["VolumeDriver"]})),
        "/VolumeDriver.Capabilities" => return Ok(json!({"Capabilities": {"Scope": "local"}})),
        "/VolumeDriver.List" => {
            let volumes: Vec<_> = shelf.keys().map(|name| json!({"Name": name})).collect();
            return Ok(json!({"Volumes": volumes, "Err": ""}));
        }
        "/VolumeDriver.Create" => {
            if let Some(reason) = asked["Opts"]["fail"].as_str() {
                return Err(reason.to_owned());
            }
            fs::create_dir(&place).map_err(|error| error.to_string())?;
            shelf.insert(name, BTreeSet::new());
            return Ok(json!({"Err": ""}));
        }
        _ => {}
    }
    let users = shelf.get_mut(&name).ok_or_else(missing)?;
    match path {
        "/VolumeDriver.Get" => Ok(json!({"Volume": {"Name": name, "Mountpoint": place, "Status": {}}})),
        "/VolumeDriver.Path" => Ok(json!({"Mountpoint": place})),
        "/VolumeDriver.Mount" => {
            users.insert(id);
            Ok(json!({"Mountpoint": place}))
        }
        "/VolumeDriver.Unmount" => {
            users.remove(&id);
            Ok(json!({}))
        }
        "/VolumeDriver.Remove" => {
            fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
            shelf.remove(&name);
            Ok(json!({}))
        }
        other => Err(format!("{other} is not known")),
    }
}
