//! What a node does by itself: pulls images from a registry, mounts them as volumes, changes what running pods may use, runs
//! pods from a folder.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;

use sha2::{Digest, Sha256};

use crate::application;
use crate::machine::{Machine, run};
use workload::image;

fn sha(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The test's image as a registry has it, by path.
pub(crate) fn content(machine: &Machine) -> BTreeMap<String, Vec<u8>> {
    let archive = image::archive(machine.folder()).unwrap();
    let folder = machine.folder().join("unpacked");
    std::fs::create_dir(&folder).unwrap();
    run(std::process::Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&folder));
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let saved: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    let (config, layer) = (read(saved[0]["Config"].as_str().unwrap()), read("layer.tar"));
    let descriptor = |bytes: &[u8]| serde_json::json!({"digest": sha(bytes), "size": bytes.len()});
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&layer)]})
            .to_string();
    [
        (format!("blobs/{}", sha(&config)), config),
        (format!("blobs/{}", sha(&layer)), layer),
        ("manifests/1".to_owned(), manifest.into_bytes()),
    ]
    .into()
}

/// Serves a registry on the machine's loopback, for who is called `u` with the password `p`, until the test ends.
fn serve(machine: &Machine) -> u16 {
    let content = content(machine);
    let listener = machine.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !stream.read(&mut byte).is_ok_and(|count| count == 1) {
                    break;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("/v2/team/app/").to_owned();
            // `u:p`, in base64.
            let known = head.contains("authorization: basic dtpw");
            let (status, body) = match (known, content.get(&path)) {
                (false, _) => ("401 Unauthorized\r\nwww-authenticate: Basic realm=\"test\"", &[][..]),
                (true, None) => ("404 Not Found", &[][..]),
                (true, Some(body)) => ("200 OK", body.as_slice()),
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    port
}

#[test]
fn a_private_image_is_pulled_with_its_secret_and_is_a_volume_too() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let port = serve(&machine);
    let image = format!("127.0.0.1:{port}/team/app:1");
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {more}\n  \
             containers: [{{name: c, image: \"{image}\", command: [sleep, \"3600\"], \
             volumeMounts: [{{name: data, mountPath: /data, subPath: etc}}]}}]\n  \
             volumes: [{{name: data, image: {{reference: \"{image}\", pullPolicy: Always}}}}]\n"
        )
    };
    machine.kubectl_args(&["apply", "-f", "-"], &pod("stranger", ""));
    machine
        .kubectl_until("get pod stranger -o jsonpath={.status.containerStatuses[0].state.waiting.reason}", |reason| {
            reason == "ImagePullBackOff" || reason == "ErrImagePull"
        });
    machine.kubectl(&format!(
        "create secret docker-registry mine --docker-server=127.0.0.1:{port} --docker-username=u --docker-password=p"
    ));
    machine.kubectl_args(&["apply", "-f", "-"], &pod("friend", "imagePullSecrets: [{name: mine}]"));
    machine.kubectl("wait --for=condition=Ready pod/friend --timeout=60s");
    let events = machine.kubectl_until("get events --field-selector involvedObject.name=friend", |events| {
        events.contains("Successfully pulled image")
    });
    assert!(events.contains("including waiting). Image size: "), "{events}");
    assert!(machine.kubectl("exec friend -- cat /data/passwd").starts_with("root:x:0:0"));
    let written = machine.try_kubectl(&["exec", "friend", "--", "touch", "/data/x"], "");
    assert!(!written.status.success(), "an image is read-only");
    // It is on the node now; who has no secret for it gets it as little as before.
    machine.kubectl("create namespace other");
    let strangers = |name: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: other}}\nspec:\n  containers: \
            [{{name: c, image: \"{image}\", imagePullPolicy: {policy}, command: [sleep, \"3600\"]}}]\n"
        )
    };
    for (name, policy, reason) in
        [("asks", "IfNotPresent", "ImagePullBackOff"), ("waits", "Never", "ErrImageNeverPull")]
    {
        machine.kubectl_args(&["apply", "-f", "-"], &strangers(name, policy));
        let waiting =
            format!("get pod {name} -n other -o jsonpath={{.status.containerStatuses[0].state.waiting.reason}}");
        machine.kubectl_until(&waiting, |seen| seen == reason);
    }
    machine.kubectl("delete namespace other");
    machine.kubectl("delete pod stranger");
    machine.timonier("down");
    machine.timonier("up --detach");
    machine.kubectl_args(&["apply", "-f", "-"], &pod("friend-2", "imagePullSecrets: [{name: mine}]"));
    machine.kubectl("wait --for=condition=Ready pod/friend-2 --timeout=60s");
    assert!(machine.timonier("image list").contains(&format!("127.0.0.1:{port}/team/app:1")));
    machine.timonier("down");
}

#[test]
fn a_running_pod_gets_more_and_a_file_is_a_pod() {
    let machine = Machine::new();
    let folder = machine.data().join("manifests");
    std::fs::create_dir_all(&folder).unwrap();
    let file = "apiVersion: v1\nkind: Pod\nmetadata: {name: static}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
                containers: [{name: c, image: \"example.test/web:1\", imagePullPolicy: IfNotPresent, command: [sleep, \"3600\"]}]\n";
    std::fs::write(folder.join("static.yaml"), file).unwrap();
    application::start(&machine);
    let node = machine.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    machine.kubectl_until(&format!("get pod static-{node} -o jsonpath={{.status.phase}}"), |phase| phase == "Running");

    let resources = |cpu: &str, memory: &str| {
        format!("{{requests: {{cpu: {cpu}, memory: {memory}}}, limits: {{cpu: {cpu}, memory: {memory}}}}}")
    };
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: grows}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: \"example.test/web:1\", command: [sleep, \"3600\"], resources: {}}}]\n",
        resources("100m", "32Mi")
    );
    machine.kubectl_args(&["apply", "-f", "-"], &pod);
    machine.kubectl("wait --for=condition=Ready pod/grows --timeout=60s");
    let patch = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"200m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"64Mi"}}}]}}"#;
    machine.kubectl_args(&["patch", "pod", "grows", "--subresource", "resize", "--patch", patch], "");
    let status = "get pod grows -o jsonpath={.status.containerStatuses[0].resources.limits.memory},{.status.containerStatuses[0].restartCount}";
    machine.kubectl_until(status, |status| status == "64Mi,0");
    // Version 2 of control groups, or version 1.
    let script = "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let limit = machine.kubectl_args(&["exec", "grows", "--", "sh", "-c", &format!("{{ {script}; }} 2>&-")], "");
    assert_eq!(limit.trim(), (64 << 20).to_string());

    std::fs::remove_file(folder.join("static.yaml")).unwrap();
    machine.kubectl_until("get pods -o name", |pods| !pods.contains("static"));
    machine.timonier("down");
}
