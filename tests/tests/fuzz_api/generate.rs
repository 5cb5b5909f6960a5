//! Requests out of the document.

use std::{fmt, path::Path};

use berth_tests::{
    Client,
    client::query,
    contract::{Contract, Operation},
    random::Random,
};
use http::Method;
use serde_json::{Map, Value, json};

/// Where nobody listens: requests that would lead to a registry lead here.
const NOBODY: &str = "127.0.0.1:1";
/// How deep made-up values nest.
const DEPTH: usize = 5;
/// Texts that engines have stumbled over.
const ODD: [&str; 24] = [
    "",
    " ",
    "/",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "%00",
    "\u{0}",
    "\n",
    "-1",
    "0",
    "1",
    "true",
    "99999999999999999999",
    "0x10",
    "null",
    "[]",
    "{}",
    "é𝄞",
    "$(id)",
    "a=b",
    "sha256:0",
    "nothing",
];
const NUMBERS: [i64; 12] = [
    0,
    1,
    -1,
    2,
    5,
    100,
    4096,
    65536,
    1 << 31,
    i64::MAX,
    i64::MIN,
    -1000,
];
const FILTERS: [&str; 22] = [
    "label",
    "name",
    "id",
    "status",
    "before",
    "since",
    "dangling",
    "until",
    "event",
    "type",
    "driver",
    "scope",
    "ancestor",
    "exited",
    "health",
    "network",
    "volume",
    "reference",
    "label!",
    "container",
    "image",
    "odd",
];
/// Operations that last by nature get this parameter.
const ENDLESS: [(&str, &str, &str); 4] = [
    ("SystemEvents", "until", "1"),
    ("ContainerStats", "one-shot", "1"),
    ("ContainerStop", "t", "0"),
    ("ContainerRestart", "t", "0"),
];

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {} {:?} {body}", self.method, self.target, self.headers)
    }
}

/// Makes requests.
pub struct Generator {
    random: Random,
    /// Names of objects that there are.
    names: Vec<String>,
    /// A directory that binds may show.
    directory: String,
    operations: Vec<&'static Operation>,
}

impl Generator {
    pub fn new(random: Random, names: Vec<String>, directory: &Path) -> Self {
        let all = Contract::shared().operations().iter();
        Self {
            random,
            names,
            directory: directory.display().to_string(),
            operations: all.filter(|operation| operation.path != "/docs").collect(),
        }
    }

    /// Takes notice of what there is now.
    pub async fn learn(&mut self, api: &Client) {
        self.names.truncate(10);
        for (path, key) in [("/containers/json?all=1", "Id"), ("/networks", "Id")] {
            let list = api.get(path).await.json();
            let ids = list.as_array().into_iter().flatten().take(8);
            self.names
                .extend(ids.filter_map(|object| object[key].as_str().map(str::to_owned)));
        }
    }

    /// A request; one round of numbers goes through all operations.
    pub fn request(&mut self, number: usize) -> Request {
        let contract = Contract::shared();
        let operation = self.operations[number % self.operations.len()];
        let node = contract
            .document()
            .pointer(&operation.pointer)
            .expect("an operation");
        let mut target = operation.path.clone();
        let mut pairs = Vec::new();
        let mut headers = Vec::new();
        for parameter in node["parameters"].as_array().into_iter().flatten() {
            let parameter = contract.resolve(parameter);
            let name = parameter["name"].as_str().unwrap_or_default();
            let text = self.parameter(operation, name, parameter);
            match parameter["in"].as_str() {
                Some("path") => {
                    let escaped = query(&[("", &text)]);
                    target = target.replace(&format!("{{{name}}}"), escaped.trim_start_matches("?="));
                }
                Some("query") if parameter["required"] == true || self.random.once_in(3) => {
                    pairs.push((name.to_owned(), text));
                }
                _ => {}
            }
        }
        for (id, name, value) in ENDLESS {
            if operation.id == id {
                pairs.retain(|(other, _)| other != name);
                pairs.push((name.to_owned(), value.to_owned()));
            }
        }
        if !pairs.is_empty() {
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
            target += &query(&pairs);
        }
        if self.random.once_in(4) {
            let versions = ["/v1.24", "/v1.30", "/v1.41", "/v1.43", "/v1.99", "/v1.0", "/vx"];
            target = format!("{}{target}", self.random.pick(&versions));
        }
        let body = self.body(operation, node, &mut headers);
        Request {
            method: operation.method.clone(),
            target,
            headers,
            body,
        }
    }

    fn body(
        &mut self,
        operation: &Operation,
        node: &Value,
        headers: &mut Vec<(&'static str, String)>,
    ) -> Vec<u8> {
        let content = &Contract::shared().resolve(&node["requestBody"])["content"];
        let Some(schema) = content.get("application/json").map(|json| &json["schema"]) else {
            if content.is_object() {
                headers.push(("content-type", "application/x-tar".to_owned()));
            }
            return match self.random.below(4) {
                0 => vec![0; 1024],
                1 => self.text().into_bytes(),
                _ => Vec::new(),
            };
        };
        let mut value = self.value(schema, 0);
        self.tame(operation, &mut value);
        let mut bytes = value.to_string().into_bytes();
        let kind = match self.random.below(20) {
            0 => "text/plain",
            1 => "",
            2 => "application/json; charset=utf-8",
            _ => "application/json",
        };
        if !kind.is_empty() {
            headers.push(("content-type", kind.to_owned()));
        }
        match self.random.below(30) {
            0 => bytes.truncate(self.random.below(bytes.len().max(1))),
            1 if !bytes.is_empty() => {
                let place = self.random.below(bytes.len());
                bytes[place] = u8::try_from(self.random.below(256)).unwrap_or(0);
            }
            2 => bytes = "[".repeat(20_000).into_bytes(),
            3 => bytes.clear(),
            _ => {}
        }
        bytes
    }

    fn parameter(&mut self, operation: &Operation, name: &str, parameter: &Value) -> String {
        match (&*operation.id, name) {
            ("ImageCreate", "fromSrc") | ("ImageBuild", "remote") => return format!("http://{NOBODY}/x"),
            ("ImageCreate", "fromImage") | ("DistributionInspect" | "ImagePush", "name") => {
                return format!("{NOBODY}/{}", self.text());
            }
            ("ImageSearch", "term") => return format!("{NOBODY}/x"),
            (_, "filters") => return self.filters(),
            (_, "id" | "name" | "container") if !self.random.once_in(6) => return self.name(),
            _ => {}
        }
        match self.value(&parameter["schema"], 1) {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    fn name(&mut self) -> String {
        self.random.pick(&self.names).clone()
    }

    fn text(&mut self) -> String {
        match self.random.below(40) {
            0 => "x".repeat(1 << self.random.below(15)),
            1..=6 => self.name(),
            _ => (*self.random.pick(&ODD)).to_owned(),
        }
    }

    fn filters(&mut self) -> String {
        if self.random.once_in(8) {
            return self.text();
        }
        let mut filters = Map::new();
        for _ in 0..self.random.below(4) {
            let name = (*self.random.pick(&FILTERS)).to_owned();
            let (one, two) = (self.text(), self.text());
            let values = match self.random.below(8) {
                0 => json!({one: true, two: false}),
                1 => json!(one),
                2 => json!([1]),
                _ => json!([one]),
            };
            filters.insert(name, values);
        }
        Value::Object(filters).to_string()
    }

    /// A value that `schema` allows, mostly.
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        let schema = Contract::shared().resolve(schema);
        if self.random.once_in(40) {
            return self.anything();
        }
        if let Some(choices) = schema["enum"].as_array() {
            return self.random.pick(choices).clone();
        }
        if let Some(examples) = schema["examples"].as_array().filter(|all| !all.is_empty())
            && self.random.once_in(2)
        {
            return self.random.pick(examples).clone();
        }
        for key in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[key].as_array() {
                let choice = self.random.below(choices.len());
                return self.value(&choices[choice], depth);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.all_of(parts, depth);
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds[self.random.below(kinds.len())].as_str().unwrap_or_default(),
            kind => kind.as_str().unwrap_or("object"),
        };
        match kind {
            "boolean" => json!(self.random.once_in(2)),
            "integer" | "number" => json!(*self.random.pick(&NUMBERS)),
            "string" => json!(self.text()),
            "array" if depth < DEPTH => {
                let count = self.random.below(3);
                (0..count)
                    .map(|_| self.value(&schema["items"], depth + 1))
                    .collect()
            }
            "array" => json!([]),
            "null" => Value::Null,
            _ => self.object(schema, depth),
        }
    }

    fn all_of(&mut self, parts: &[Value], depth: usize) -> Value {
        let mut all = Map::new();
        for part in parts {
            if let Value::Object(fields) = self.value(part, depth) {
                all.extend(fields);
            }
        }
        Value::Object(all)
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        if depth >= DEPTH {
            return Value::Object(object);
        }
        let required = |name: &str| {
            let all = schema["required"].as_array().into_iter().flatten();
            all.into_iter().any(|other| other == name)
        };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if required(name) || self.random.once_in(6) {
                object.insert(name.clone(), self.value(property, depth + 1));
            }
        }
        if schema["additionalProperties"].is_object() && self.random.once_in(2) {
            let name = self.text();
            object.insert(name, self.value(&schema["additionalProperties"], depth + 1));
        }
        Value::Object(object)
    }

    fn anything(&mut self) -> Value {
        match self.random.below(7) {
            0 => Value::Null,
            1 => json!(self.text()),
            2 => json!(*self.random.pick(&NUMBERS)),
            3 => json!([self.text()]),
            4 => json!({self.text(): self.text()}),
            5 => json!(1.5),
            _ => json!(true),
        }
    }

    /// Takes out what would reach beyond the test: other machines, the host's files, ports and devices.
    fn tame(&mut self, operation: &Operation, value: &mut Value) {
        let Some(body) = value.as_object_mut() else { return };
        match &*operation.id {
            "ContainerCreate" => {
                if !self.random.once_in(8) {
                    body.insert("Image".to_owned(), json!("busybox"));
                    let commands = [
                        json!(["true"]),
                        json!(["sleep", "1"]),
                        json!(["nothing-like-it"]),
                        json!(["sh"]),
                    ];
                    body.insert("Cmd".to_owned(), self.random.pick(&commands).clone());
                    body.remove("Entrypoint");
                }
                let Some(host) = body.get_mut("HostConfig").and_then(Value::as_object_mut) else {
                    return;
                };
                let unsafe_fields = [
                    "Mounts",
                    "PortBindings",
                    "PublishAllPorts",
                    "CgroupParent",
                    "Devices",
                    "DeviceRequests",
                    "Cgroup",
                    "RestartPolicy",
                    "ContainerIDFile",
                    "PidMode",
                    "UTSMode",
                ];
                for field in unsafe_fields {
                    host.remove(field);
                }
                if host.contains_key("Binds") {
                    let modes = ["", ":ro", ":z", ":odd", ":rshared"];
                    let bind = format!("{}:/bound{}", self.directory, self.random.pick(&modes));
                    host.insert("Binds".to_owned(), json!([bind]));
                }
            }
            "NetworkCreate" => {
                for field in ["IPAM", "Options", "ConfigFrom", "ConfigOnly", "Driver"] {
                    body.remove(field);
                }
            }
            "VolumeCreate" => {
                body.remove("DriverOpts");
            }
            "SystemAuth" => {
                body.insert("serveraddress".to_owned(), json!(NOBODY));
            }
            _ => {}
        }
    }
}
