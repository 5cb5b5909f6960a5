//! The docker command line as a client, plain and on a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Output, Stdio},
    sync::mpsc,
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::AsyncWriteExt;

use crate::{client::PATIENCE, engine::Engine};

/// What a finished command has left.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Fails unless the command ended with 0; gives its standard output without the last newline.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "standard output:\n{}\nstandard error:\n{}",
            self.out, self.err
        );
        self.out.trim_end_matches('\n').to_owned()
    }

    /// Fails unless the command ended with this code; gives its standard error.
    ///
    /// # Panics
    /// That is what it is for.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(
            self.code, code,
            "standard output:\n{}\nstandard error:\n{}",
            self.out, self.err
        );
        self.err
    }
}

impl Engine {
    /// Runs `docker` with these words against this engine.
    pub async fn docker(&self, words: &[&str]) -> Outcome {
        self.docker_with(words, b"").await
    }

    /// Runs `docker` with standard input.
    ///
    /// # Panics
    /// If the docker command line is not installed.
    pub async fn docker_with(&self, words: &[&str], input: &[u8]) -> Outcome {
        let mut command = tokio::process::Command::new("docker");
        command.args(words).envs(self.docker_environment());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| missing(&error));
        let mut stdin = child.stdin.take().expect("a pipe");
        let feed = async {
            // It may not read its input at all.
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let all = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output: Output = match tokio::time::timeout(PATIENCE * 2, all).await {
            Ok(output) => output.expect("the output of docker"),
            Err(_) => panic!("docker {words:?} did not end; berthd's log:\n{}", self.log()),
        };
        Outcome {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn docker_environment(&self) -> [(&'static str, String); 4] {
        [
            ("DOCKER_HOST", format!("unix://{}", self.api.socket().display())),
            ("DOCKER_CONFIG", self.root().join("docker").display().to_string()),
            ("DOCKER_CLI_HINTS", "0".to_owned()),
            ("TERM", "xterm".to_owned()),
        ]
    }

    /// Runs `docker` on a terminal of its own.
    ///
    /// # Panics
    /// If the docker command line or setsid(1) is not installed.
    pub fn docker_terminal(&self, words: &[&str]) -> Terminal {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("the terminal's name");
        let open = || -> OwnedFd {
            rustix::fs::open(
                name.as_c_str(),
                OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .expect("the terminal")
        };
        let size = Winsize {
            ws_row: 33,
            ws_col: 101,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).expect("the terminal's size");
        let mut command = std::process::Command::new("setsid");
        command
            .args(["--ctty", "--wait", "docker"])
            .args(words)
            .envs(self.docker_environment());
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run setsid (util-linux): {error}"));
        Terminal::new(child, File::from(master))
    }
}

fn missing(error: &std::io::Error) -> ! {
    panic!("cannot run docker: {error}; on Debian: apt-get install docker.io or docker-cli")
}

/// A program on a terminal, and who sits in front of it.
#[derive(Debug)]
pub struct Terminal {
    child: std::process::Child,
    keyboard: File,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
    used: usize,
}

impl Terminal {
    fn new(child: std::process::Child, master: File) -> Self {
        let (to, screen) = mpsc::channel();
        let mut reader = master.try_clone().expect("a descriptor");
        // Ends with the terminal: the last writer's end makes the read fail.
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length) = reader.read(&mut piece) {
                if length == 0 || to.send(piece.get(..length).unwrap_or_default().to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keyboard: master,
            screen,
            seen: String::new(),
            used: 0,
        }
    }

    /// Types.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn enter(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal");
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.keyboard, size).expect("the terminal");
    }

    /// Waits until `text` is shown, after what was waited for before.
    ///
    /// # Panics
    /// If it is not.
    pub fn see(&mut self, text: &str) {
        loop {
            let fresh = self.seen.get(self.used..).unwrap_or_default();
            if let Some(at) = fresh.find(text) {
                self.used += at + text.len();
                return;
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(error) => panic!("{text:?} is not shown ({error}); the screen: {:?}", self.seen),
            }
        }
    }

    /// Waits for the program's end; gives its exit code and the whole screen.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(mut self) -> (i32, String) {
        loop {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("docker did not end; the screen: {:?}", self.seen)
                }
            }
        }
        let status = self.child.wait().expect("our child");
        (status.code().unwrap_or(-1), std::mem::take(&mut self.seen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failed test. setsid passes nothing on, but the terminal's end does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
