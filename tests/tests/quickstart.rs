//! The first command of README.md.

use std::process::Stdio;

use berth_tests::Engine;

#[tokio::test]
async fn the_first_command_of_the_readme_works() {
    // The script finds an engine that answers, and uses it as it would use its own.
    let engine = Engine::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/quickstart.sh");
    let output = tokio::process::Command::new(script)
        .env("BERTHD", berth_tests::engine::berthd())
        .env("SOCKET", engine.api.socket())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("bash and curl are installed");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for part in [
        "\"ApiVersion\":\"1.43\"",
        "berth/hello:latest",
        "[HTTP 201]",
        "{\"StatusCode\":0}",
        "Hello from a container",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(engine.api.names("?all=1").await, Vec::<String>::new());
    engine.finish().await;
}
