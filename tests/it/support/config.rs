//! Builds configuration files for the tests. Ports are placeholders (`$ADMIN`, `$in`) that the
//! harness fills in when it starts the proxy.

use std::net::SocketAddr;

/// A configuration in the making. The common case is one listener `in`, one route table `main`.
#[derive(Debug, Clone)]
pub struct Config {
    top: Vec<String>,
    listeners: Vec<(String, Vec<String>)>,
    routes: Vec<(String, String)>,
    clusters: Vec<(String, Vec<String>)>,
    catch_all: Option<Vec<String>>,
}

impl Config {
    /// One listener `in`, no routes and no clusters yet.
    pub fn new() -> Self {
        Self {
            top: Vec::new(),
            listeners: vec![("in".to_owned(), Vec::new())],
            routes: Vec::new(),
            clusters: Vec::new(),
            catch_all: None,
        }
    }

    /// Everything that arrives goes to the cluster `c`, which speaks `protocol` to `endpoints`.
    pub fn to(protocol: &str, endpoints: &[SocketAddr]) -> Self {
        let mut config = Self::new().cluster("c", protocol, endpoints);
        config.catch_all = Some(Vec::new());
        config
    }

    /// Adds top-level YAML.
    pub fn top(mut self, yaml: &str) -> Self {
        self.top.push(yaml.to_owned());
        self
    }

    /// Adds another listener on the same routes; later [`Self::listener`] calls are about it.
    pub fn add_listener(mut self, name: &str) -> Self {
        self.listeners.push((name.to_owned(), Vec::new()));
        self
    }

    /// Gives the first listener another name than `in`.
    pub fn first_listener(mut self, name: &str) -> Self {
        name.clone_into(&mut self.listeners.first_mut().expect("a listener").0);
        self
    }

    /// Adds settings (`maxHeaders: 10`) to the last listener.
    pub fn listener(mut self, setting: &str) -> Self {
        self.listeners.last_mut().expect("a listener").1.push(setting.to_owned());
        self
    }

    /// Adds settings (`timeouts: { request: 1s }`) to the catch-all rule of [`Self::to`].
    pub fn rule(mut self, setting: &str) -> Self {
        self.catch_all.as_mut().expect("a catch-all rule").push(setting.to_owned());
        self
    }

    /// The virtual hosts of the table `main`, as YAML (a list, any indentation).
    pub fn routes(mut self, yaml: &str) -> Self {
        self.catch_all = None;
        self.routes.push(("main".to_owned(), yaml.to_owned()));
        self
    }

    /// Adds a cluster.
    pub fn cluster(mut self, name: &str, protocol: &str, endpoints: &[SocketAddr]) -> Self {
        let endpoints = endpoints.iter().map(|e| format!("\"{e}\"")).collect::<Vec<_>>().join(", ");
        let settings = vec![format!("protocol: {protocol}"), format!("endpoints: [{endpoints}]")];
        self.clusters.push((name.to_owned(), settings));
        self
    }

    /// Adds a cluster with its endpoints written out in YAML.
    pub fn cluster_yaml(mut self, name: &str, settings: &str) -> Self {
        self.clusters.push((name.to_owned(), vec![settings.to_owned()]));
        self
    }

    /// Adds settings (`circuitBreaker: { maxRequests: 1 }`) to the last cluster.
    pub fn upstream(mut self, setting: &str) -> Self {
        self.clusters.last_mut().expect("a cluster").1.push(setting.to_owned());
        self
    }

    /// The names of the listeners, whose ports have to be filled in.
    pub fn listener_names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|(name, _)| name.as_str())
    }

    /// The file, with `$ADMIN` and `$PORT_<listener>` still in it.
    pub fn render(&self) -> String {
        let mut out = String::from("admin: { address: \"127.0.0.1:$ADMIN\" }\n");
        for (key, default) in [("accessLog", "off"), ("workers", "2")] {
            if !self.top.iter().any(|yaml| yaml.starts_with(key)) {
                out += &format!("{key}: {default}\n");
            }
        }
        for yaml in &self.top {
            out += yaml;
            out += "\n";
        }
        out += "listeners:\n";
        for (name, settings) in &self.listeners {
            out += &format!("  - name: {name}\n");
            if !settings.iter().any(|s| s.starts_with("bind:")) {
                out += &format!("    bind: \"127.0.0.1:$PORT_{name}\"\n");
            }
            let raw = |s: &String| s.starts_with("protocol: tcp") || s.starts_with("protocol: udp");
            if !settings.iter().any(|s| s.starts_with("routes:") || raw(s)) {
                out += "    routes: main\n";
            }
            for setting in settings {
                out += &format!("    {setting}\n");
            }
        }
        out += if self.catch_all.is_none() && self.routes.is_empty() { "routes: {}\n" } else { "routes:\n" };
        if let Some(settings) = &self.catch_all {
            out += "  main:\n    - rules:\n        - backendRefs: [{ cluster: c }]\n";
            for setting in settings {
                out += &format!("          {setting}\n");
            }
        }
        for (name, yaml) in &self.routes {
            out += &format!("  {name}:\n");
            for line in dedent(yaml) {
                out += &format!("    {line}\n");
            }
        }
        if self.clusters.is_empty() {
            out += "clusters: {}\n";
        } else {
            out += "clusters:\n";
            for (name, settings) in &self.clusters {
                out += &format!("  {name}:\n");
                for setting in settings {
                    for line in dedent(setting) {
                        out += &format!("    {line}\n");
                    }
                }
            }
        }
        out
    }
}

fn dedent(yaml: &str) -> Vec<&str> {
    let lines = || yaml.lines().filter(|line| !line.trim().is_empty());
    let indent = lines().map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
    lines().map(|line| &line[indent..]).collect()
}
