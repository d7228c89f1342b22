//! Random lives of pods against a small model of what must hold on the way and at the end.
//!
//! Pods are made, changed and deleted, containers end and fall ill, sandboxes die, calls of the runtime and of the API fail, and
//! the kubelet is started anew, in any order. On the way no container runs twice at a time, no phase goes back, init
//! containers come first, what must not start again does not, and nobody gets another grace than the pod's. When the trouble
//! is over, what the API shows is what runs, and of deleted pods nothing is left. Each seed is printed before it is played.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::fake_runtime::What;
use super::*;

const PODS_MAX: usize = 4;
const STEPS: usize = 40;
/// Some of them found faults. One alone is played by putting it here.
const SEEDS: [u64; 12] = [8, 9, 10, 12, 124, 128, 135, 143, 150, 206, 231, 250];

/// What a pod was made to be.
#[derive(Debug, Clone)]
struct Wanted {
    name: String,
    policy: &'static str,
    grace_seconds: i64,
    deletion_seconds: Option<i64>,
    /// Name, whether it is a sidecar.
    init: Vec<(String, bool)>,
    main: Vec<String>,
}

/// Loses requests and their answers, and looks at each status that is written.
struct Unreliable {
    front: Front,
    trouble: Arc<AtomicU32>,
    phases: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl Transport for Unreliable {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let lost = || TransportError { server: "test".into(), source: "lost".into() };
        let left = self.trouble.load(Ordering::SeqCst);
        self.trouble.store(left.saturating_sub(1), Ordering::SeqCst);
        if left % 2 == 1 {
            return async move { Err(lost()) }.boxed();
        }
        let status = request.uri().path().ends_with("/status") && request.uri().path().contains("/pods/");
        if let Some(body) = serde_json::from_slice::<Value>(request.body()).ok().filter(|_| status) {
            let uid = body["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            if let Some(phase) = body["status"]["phase"].as_str() {
                self.phases.lock().unwrap().entry(uid).or_default().push(phase.to_owned());
            }
        }
        let answer = self.front.send(request);
        async move { if left > 0 { answer.await.and(Err(lost())) } else { answer.await } }.boxed()
    }
}

struct Play {
    cluster: Cluster,
    random: Random,
    api_trouble: Arc<AtomicU32>,
    phases: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    /// All pods that there ever were, by uid.
    pods: BTreeMap<String, Wanted>,
    live: BTreeSet<String>,
}

impl Play {
    fn new(seed: u64) -> Self {
        Self {
            cluster: Cluster::new(),
            random: Random::from_seed(seed),
            api_trouble: Arc::default(),
            phases: Arc::default(),
            pods: BTreeMap::new(),
            live: BTreeSet::new(),
        }
    }

    async fn start(&self) -> Kubelet {
        let front = Front(self.cluster.api.clone(), self.cluster.api.transport());
        let transport = Unreliable { front, trouble: self.api_trouble.clone(), phases: self.phases.clone() };
        self.cluster.start_with(Arc::new(transport)).await
    }

    fn pick<T: Clone>(&self, list: &[T]) -> Option<T> {
        list.get(self.random.below(list.len())).cloned()
    }

    fn create(&mut self, number: usize) {
        let policy = self.pick(&["Always", "OnFailure", "Never"]).expect("three");
        let grace_seconds = 1 + self.random.below(9) as i64;
        let commands: [Value; 6] = [
            json!(["run"]),
            json!(["run"]),
            json!(["run"]),
            json!(["stubborn"]),
            json!(["exit", "0"]),
            json!(["exit", "3"]),
        ];
        let health = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1});
        let mut wanted = Wanted {
            name: format!("pod-{number}"),
            policy,
            grace_seconds,
            deletion_seconds: None,
            init: vec![],
            main: vec![],
        };
        let mut init = Vec::new();
        for index in 0..self.random.below(3) {
            let (name, sidecar) = (format!("init-{index}"), self.random.below(2) == 0);
            let command = if sidecar { commands[self.random.below(4)].clone() } else { json!(["exit", "0"]) };
            let mut container = json!({"name": name, "image": "busybox:1", "command": command});
            if sidecar {
                container["restartPolicy"] = "Always".into();
            }
            init.push(container);
            wanted.init.push((name, sidecar));
        }
        let mut main = Vec::new();
        for index in 0..=self.random.below(2) {
            let (name, command) = (format!("main-{index}"), commands[self.random.below(6)].clone());
            let mut container = json!({"name": name, "image": "busybox:1", "command": command});
            if self.random.below(2) == 0 {
                container["livenessProbe"] = health.clone();
            }
            main.push(container);
            wanted.main.push(name);
        }
        let spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": grace_seconds, "initContainers": init,
            "containers": main, "volumes": [{"name": "v", "emptyDir": {}}]});
        let uid = self.cluster.pod(&wanted.name, spec);
        self.live.insert(uid.clone());
        self.pods.insert(uid, wanted);
    }

    fn delete(&mut self, uid: &str) {
        let seconds = 1 + self.random.below(5) as i64;
        let wanted = self.pods.get_mut(uid).expect("it was made");
        wanted.deletion_seconds = Some(seconds);
        self.live.remove(uid);
        let mut pod = self.cluster.get(&wanted.name).expect("nobody else deletes pods");
        pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:30Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
        pod["metadata"]["finalizers"] = json!([HOLD]);
        self.cluster.api.put(pod);
    }

    /// As with a forced deletion: the API has forgotten it already.
    fn remove(&mut self, uid: &str) {
        self.live.remove(uid);
        let wanted = self.pods.get_mut(uid).expect("it was made");
        wanted.deletion_seconds = Some(1);
        self.cluster.api.delete(Pod::resource(), "default", &wanted.name);
    }

    /// One random step.
    async fn step(&mut self, number: usize, kubelet: Kubelet) -> Kubelet {
        let (live, running) = (Vec::from_iter(self.live.iter().cloned()), self.cluster.runtime.running());
        match self.random.below(24) {
            0..=5 if live.len() < PODS_MAX => self.create(number),
            6..=7 if !live.is_empty() => self.delete(&self.pick(&live).expect("not empty")),
            8 if !live.is_empty() => self.remove(&self.pick(&live).expect("not empty")),
            9..=11 => {
                let code = self.pick(&[0, 1, 137]).expect("three");
                self.pick(&running).iter().for_each(|id| self.cluster.runtime.end(id, code));
            }
            12 => self.pick(&running).iter().for_each(|id| self.cluster.runtime.sicken(id)),
            13..=14 => self.cluster.runtime.trouble(self.random.below(8) as u32),
            15..=16 => self.api_trouble.store(self.random.below(8) as u32, Ordering::SeqCst),
            17 => {
                let sandbox = self.pick(&self.cluster.runtime.ready_sandboxes());
                sandbox.iter().for_each(|(id, uid)| self.cluster.runtime.lose_sandbox(id, uid));
            }
            18 if !live.is_empty() => self.change(&self.pick(&live).expect("not empty")),
            19..=20 => {
                kubelet.end().await;
                return self.start().await;
            }
            _ => tokio::time::sleep(Duration::from_millis(self.random.below(20_000) as u64)).await,
        }
        tokio::time::sleep(Duration::from_millis(self.random.below(50) as u64)).await;
        kubelet
    }

    /// Another image for one of the containers.
    fn change(&self, uid: &str) {
        let mut pod = self.cluster.get(&self.pods[uid].name).expect("it is live");
        pod["spec"]["containers"][0]["image"] = format!("busybox:{}", self.random.below(3)).into();
        self.cluster.api.put(pod);
    }

    /// What must hold of everything that happened so far.
    fn check_history(&self) {
        let (mut succeeded, mut running) = (BTreeSet::new(), BTreeSet::new());
        let mut ended: BTreeMap<(String, String), Vec<i32>> = BTreeMap::new();
        for event in self.cluster.runtime.history() {
            let wanted = &self.pods[&event.pod_uid];
            let who = (event.pod_uid.clone(), event.container.clone());
            let of = |name: &String| (event.pod_uid.clone(), name.clone());
            match event.what {
                What::Started { beside } => {
                    assert_eq!(beside, 0, "{who:?} runs twice");
                    let first = !ended.contains_key(&who);
                    let before = wanted.init.iter().take_while(|(name, _)| *name != event.container);
                    for (name, sidecar) in before.filter(|_| first) {
                        assert!(*sidecar || succeeded.contains(&of(name)), "{who:?} started before {name} was done");
                        assert!(
                            !sidecar || running.contains(&of(name)) || ended.contains_key(&of(name)),
                            "{who:?} started before {name}"
                        );
                    }
                    if wanted.main.contains(&event.container) {
                        let codes = ended.get(&who).map_or(&[][..], Vec::as_slice);
                        let again = match wanted.policy {
                            "Never" => codes.is_empty(),
                            "OnFailure" => codes.last() != Some(&0),
                            _ => true,
                        };
                        assert!(again, "{who:?} of policy {} started after {codes:?}", wanted.policy);
                    }
                    running.insert(who);
                }
                What::Ended(code) => {
                    running.remove(&who);
                    if code == 0 {
                        succeeded.insert(who.clone());
                    }
                    ended.entry(who).or_default().push(code);
                }
                What::Stopping { grace_seconds } => {
                    let fine = grace_seconds == wanted.grace_seconds || Some(grace_seconds) == wanted.deletion_seconds;
                    // Of a pod that nobody knows any more nobody says how long it may take.
                    assert!(
                        fine || (grace_seconds == 1 && wanted.deletion_seconds.is_some()),
                        "{who:?}: {grace_seconds} s of {wanted:?}"
                    );
                }
            }
        }
        let rank = |phase: &str| ["Pending", "Running", "Succeeded", "Failed"].iter().position(|known| *known == phase);
        for (uid, phases) in self.phases.lock().unwrap().iter() {
            for pair in phases.windows(2).filter(|pair| pair[0] != pair[1]) {
                assert!(
                    rank(&pair[0]).min(Some(2)) < rank(&pair[1]).min(Some(2)),
                    "{:?}: {phases:?}",
                    self.pods.get(uid)
                );
            }
        }
    }

    /// What must hold once nothing goes wrong any more.
    fn check_rest(&self) {
        let containers = self.cluster.runtime.containers();
        let label = |status: &cri::v1::ContainerStatus, name: &str| status.labels[name].clone();
        for uid in containers.iter().map(|(status, _)| label(status, crate::identity::POD_UID)) {
            assert!(self.live.contains(&uid), "left of {:?}", self.pods[&uid]);
        }
        for uid in &self.live {
            let (wanted, sandboxes) = (&self.pods[uid], self.cluster.runtime.ready_sandboxes());
            let status = self.cluster.get(&wanted.name).expect("it is live")["status"].clone();
            let at_work = sandboxes.iter().filter(|(_, pod)| pod == uid).count();
            let phase = status["phase"].as_str().unwrap_or_default();
            let lists = ["initContainerStatuses", "containerStatuses"]
                .map(|list| status[list].as_array().cloned().unwrap_or_default());
            let mut codes = Vec::new();
            for shown in lists.iter().flatten() {
                let name = shown["name"].as_str().unwrap_or_default();
                let own = containers.iter().map(|(status, _)| status).filter(|status| {
                    label(status, crate::identity::POD_UID) == *uid
                        && label(status, crate::identity::CONTAINER_NAME) == name
                });
                let running = own.filter(|status| status.state() == cri::v1::ContainerState::ContainerRunning);
                let running: Vec<_> = running.map(|status| json!(format!("fake://{}", status.id))).collect();
                assert_eq!(running.is_empty(), shown["state"]["running"].is_null(), "{wanted:?}: {shown}");
                assert!(running.iter().all(|id| shown["containerID"] == *id), "{wanted:?}: {shown}");
                if wanted.main.iter().any(|main| main == name) {
                    codes.push(shown["state"]["terminated"]["exitCode"].as_i64());
                }
            }
            let over = wanted.policy != "Always"
                && codes.iter().all(|code| matches!(code, Some(code) if wanted.policy == "Never" || *code == 0));
            match (over, codes.iter().all(|code| *code == Some(0))) {
                (true, true) => assert_eq!(phase, "Succeeded", "{wanted:?}: {status}"),
                (true, false) => assert_eq!(phase, "Failed", "{wanted:?}: {status}"),
                (false, _) if phase == "Failed" => assert_eq!(at_work, 0, "{wanted:?}: {status}"),
                (false, _) => assert_eq!((phase, at_work), ("Running", 1), "{wanted:?}: {status}"),
            }
            assert!(phase != "Failed" || wanted.policy != "Always", "{wanted:?}: {status}");
        }
    }

    fn check_empty(&self) {
        assert_eq!(self.cluster.runtime.counts(), (0, 0));
        for folder in ["root/pods", "logs"] {
            let left: Vec<_> = std::fs::read_dir(self.cluster.dir.path().join(folder)).into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    async fn play(mut self) {
        let mut kubelet = self.start().await;
        for number in 0..STEPS {
            kubelet = self.step(number, kubelet).await;
        }
        self.cluster.runtime.trouble(0);
        self.api_trouble.store(0, Ordering::SeqCst);
        // Longer than every back-off.
        tokio::time::sleep(Duration::from_secs(700)).await;
        self.check_history();
        self.check_rest();
        for uid in self.live.clone() {
            self.delete(&uid);
        }
        tokio::time::sleep(Duration::from_secs(700)).await;
        self.check_history();
        assert_eq!(self.cluster.api.list(Pod::resource()), Vec::<Value>::new());
        self.check_empty();
        kubelet.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn pods_keep_to_the_model_whatever_happens() {
    for seed in SEEDS {
        eprintln!("seed {seed}");
        Play::new(seed).play().await;
    }
}
