//! What the tests of this crate share.

use api::Typed;
use api::typed::core::v1::Pod;

use crate::observed::{Container, Observed, Sandbox, State};

/// A pod from its JSON, as a worker keeps it.
pub(crate) fn pod(json: &str) -> Pod {
    let mut pod = Pod::decode(json.as_bytes()).expect("the test's pod is a pod");
    crate::identity::adopt_ephemeral(&mut pod);
    pod
}

/// What the runtime shows of a pod with one ready sandbox and these containers: `name#attempt:state`, where state is
/// `running`, `created` or an exit code. Ended runs finished at the fake clock's start.
pub(crate) fn observed(containers: &str) -> Observed {
    let mut list: Vec<_> = containers.split_whitespace().map(container).collect();
    list.sort_by_key(|run| std::cmp::Reverse(run.attempt));
    Observed { sandboxes: vec![sandbox(true)], containers: list }
}

/// The pod's sandbox.
pub(crate) fn sandbox(ready: bool) -> Sandbox {
    Sandbox { id: "sandbox".into(), attempt: 0, ready, ips: vec!["10.42.0.9".parse().expect("an address")] }
}

fn container(text: &str) -> Container {
    let (head, state) = text.split_once(':').expect("name#attempt:state");
    let (name, attempt) = head.split_once('#').unwrap_or((head, "0"));
    let start = base::Clock::now(&base::FakeClock::default());
    let (state, exit_code) = match state {
        "running" => (State::Running, 0),
        "created" => (State::Created, 0),
        code => (State::Exited, code.parse().expect("an exit code")),
    };
    let spec = api::typed::core::v1::Container { name: name.to_owned(), ..Default::default() };
    Container {
        id: format!("{name}-{attempt}"),
        sandbox_id: "sandbox".into(),
        name: name.to_owned(),
        attempt: attempt.parse().expect("a number"),
        state,
        started_at: (state != State::Created).then_some(start),
        finished_at: (state == State::Exited).then_some(start),
        exit_code,
        reason: if state == State::Exited { if exit_code == 0 { "Completed" } else { "Error" } } else { "" }.to_owned(),
        message: String::new(),
        image: "busybox".into(),
        image_id: "sha256:1".into(),
        hash: crate::identity::hash(&spec),
        user: None,
        resources: None,
    }
}
