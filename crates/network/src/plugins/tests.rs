//! Plugins that are little shell scripts: they write down how they were called.

use std::os::unix::fs::PermissionsExt;

use cri::PortMapping;
use linux::net::FakeNet;
use serde_json::json;

use super::*;

struct World {
    folder: tempfile::TempDir,
    plugins: Plugins,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["net.d", "bin", "state"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("namespace"), "").unwrap();
        let config = PluginsConfig {
            net: Arc::new(FakeNet::default()),
            configuration_dir: path("net.d"),
            program_dir: path("bin"),
            state_dir: path("state"),
            pod_cidr: Some("10.42.7.0/24".parse().unwrap()),
        };
        let plugins = Plugins::open(config).unwrap();
        Self { folder, plugins }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A plugin that appends its name, command and namespace to `calls`, keeps its last input, and goes on with `script`.
    fn plugin(&self, name: &str, script: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "#!/bin/sh\necho {name} $CNI_COMMAND $CNI_NETNS >> {folder}/calls\ncat > {folder}/input-{name}-$CNI_COMMAND\n{script}\n"
        );
        let path = self.path("bin").join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn configure(&self, plugins: &[&str]) {
        let plugins: Vec<Value> =
            plugins.iter().map(|name| json!({"type": name, "capabilities": {"portMappings": true}})).collect();
        let text = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}).to_string();
        std::fs::write(self.path("net.d/10-net.conflist"), text).unwrap();
    }

    fn request(&self) -> AttachRequest {
        AttachRequest {
            sandbox_id: "sandbox".into(),
            namespace_path: self.path("namespace"),
            pod_namespace: "ns".into(),
            pod_name: "web".into(),
            pod_uid: "uid".into(),
            port_mappings: vec![PortMapping { protocol: 6, host_ip: None, host_port: 80, container_port: 8080 }],
        }
    }

    /// What was called since it was asked last.
    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("calls"));
        let namespace = self.path("namespace").display().to_string();
        text.lines().map(|line| line.trim_end().replace(&namespace, "NS")).collect()
    }

    fn input(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path(&format!("input-{name}"))).unwrap()).unwrap()
    }

    async fn attach(&self) -> Result<Vec<IpAddr>, String> {
        self.plugins.attach(&self.request()).await.map_err(|error| base::chain(&error))
    }
}

const GIVES: &str = r#"[ $CNI_COMMAND = DEL ] || echo '{"cniVersion": "1.0.0", "ips": [{"address": "fd00::5/64"}, {"address": "10.9.0.5/16"}]}'"#;
const PASSES: &str =
    r#"[ $CNI_COMMAND = DEL ] || echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.5/16"}], "seen": true}'"#;

#[tokio::test]
async fn a_chain_is_called_in_order_and_back_and_told_what_was_before() {
    let world = World::new();
    world.plugin("first", GIVES);
    world.plugin("second", PASSES);
    assert!(world.attach().await.unwrap_err().contains("no networks found in "));
    assert!(base::chain(&world.plugins.status().await.unwrap_err()).contains("no networks found in "));
    world.configure(&["first", "second"]);
    world.plugins.status().await.unwrap();
    assert_eq!(world.attach().await.unwrap(), ["10.9.0.5".parse::<IpAddr>().unwrap()]);
    assert_eq!(world.calls(), ["first ADD NS", "second ADD NS"]);
    assert_eq!(world.input("second-ADD")["prevResult"]["ips"][0]["address"], "fd00::5/64");
    assert_eq!(world.input("first-ADD")["runtimeConfig"]["portMappings"][0]["hostPort"], 80);
    assert!(world.input("first-ADD").get("prevResult").is_none());
    assert_eq!(world.plugins.attached().await.unwrap(), ["sandbox"]);
    // Once more, as after a crash.
    world.attach().await.unwrap();
    assert_eq!(world.calls(), Vec::<String>::new());
    // Another process, another configuration, and the namespace is gone with its pod.
    world.configure(&["third"]);
    std::fs::remove_file(world.path("namespace")).unwrap();
    let again = Plugins::open(world.plugins.config.clone()).unwrap();
    again.detach("sandbox").await.unwrap();
    assert_eq!(world.calls(), ["second DEL", "first DEL"]);
    assert_eq!(world.input("first-DEL")["prevResult"]["seen"], true);
    again.detach("sandbox").await.unwrap();
    assert_eq!((world.calls(), again.attached().await.unwrap()), (vec![], vec![]));
}

#[tokio::test]
async fn a_failure_takes_back_what_was_given_and_says_whose_it_is() {
    let world = World::new();
    world.plugin("first", GIVES);
    world.plugin("bad", r#"[ $CNI_COMMAND = DEL ] || { echo '{"code": 11, "msg": "busy"}'; exit 1; }"#);
    world.configure(&["first", "bad"]);
    let said = world.attach().await.unwrap_err();
    assert!(said.ends_with("plugin type=\"bad\" failed (ADD): busy (code 11)"), "{said}");
    assert_eq!(world.calls(), ["first ADD NS", "bad ADD NS", "bad DEL NS", "first DEL NS"]);
    assert_eq!(world.plugins.attached().await.unwrap(), Vec::<String>::new());
    world.configure(&["absent"]);
    let said = world.attach().await.unwrap_err();
    assert!(said.contains("cannot run ") && said.contains("bin/absent"), "{said}");
    world.plugin("silent", "exit 0");
    world.plugin("talks", "exec head -c 2000000 /dev/zero");
    for (name, wanted) in [("silent", "gave the pod no address"), ("talks", "it wrote more than 1048576 bytes")] {
        // What was left by one that could not be taken back is met first.
        std::fs::remove_dir_all(&world.plugins.records).unwrap();
        std::fs::create_dir(&world.plugins.records).unwrap();
        world.configure(&[name]);
        let said = world.attach().await.unwrap_err();
        assert!(said.contains(wanted), "{said}");
    }
    std::fs::write(world.path("net.d/00-broken.conf"), "{").unwrap();
    let said = base::chain(&world.plugins.status().await.unwrap_err());
    assert!(said.contains("00-broken.conf cannot be used: it is not JSON"), "{said}");
}

/// A crash between the first plugin's end and the last one's: nobody was told of an address, and all of it is given anew.
#[tokio::test]
async fn what_a_crash_left_half_given_is_taken_back_first() {
    let world = World::new();
    world.plugin("first", GIVES);
    world.plugin("hangs", "[ $CNI_COMMAND = DEL ] || exec sleep 60");
    world.configure(&["first", "hangs"]);
    let hangs = async {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while !std::fs::read_to_string(world.path("calls")).is_ok_and(|calls| calls.contains("hangs ADD")) {
            assert!(tokio::time::Instant::now() < deadline, "the last plugin is not called");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        attached = world.attach() => panic!("it does not hang: {attached:?}"),
        () = hangs => {}
    }
    assert_eq!(world.calls(), ["first ADD NS", "hangs ADD NS"]);
    world.plugin("hangs", PASSES);
    world.attach().await.unwrap();
    assert_eq!(world.calls(), ["hangs DEL NS", "first DEL NS", "first ADD NS", "hangs ADD NS"]);
    remove_all(&world.path("state")).await.unwrap();
    assert_eq!(world.calls(), ["hangs DEL NS", "first DEL NS"]);
}
