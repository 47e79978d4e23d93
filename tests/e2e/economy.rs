use crate::env::as_every_user;

#[test]
fn a_final_copy_creates_none_of_its_files() {
    as_every_user(|env| {
        env.base();
        for directory in 0..200 {
            for file in 0..100 {
                env.write(
                    &format!("many/d{directory}/f{file}"),
                    format!("{directory} {file}\n"),
                );
            }
        }
        env.write("many/Dockerfile", "FROM base\nCOPY . /app\n");
        let calls = "openat,open,creat,mkdir,mkdirat,mknodat,linkat,link,symlinkat";
        let context = env.path("many");
        let Some(trace) = env.trace(calls, &["build", "-q", "-t", "many", context.to_str().unwrap()]) else {
            return;
        };
        let created = trace
            .lines()
            .filter(|line| line.contains("O_CREAT") || line.contains("mkdir") || line.contains("link"))
            .count();
        assert!(created < 100, "{created} files were created for a COPY of 20,000");
    });
}

#[test]
fn a_run_does_not_look_at_the_image() {
    as_every_user(|env| {
        env.base();
        // Links, because it is names that a scan would stumble over, and files are slow to make.
        let make = "FROM base\nRUN mkdir -p /data/1 && cd /data/1 && seq 200 | xargs touch && cd .. && \
                    for d in $(seq 2 250); do cp -al 1 $d; done\n";
        env.build("files", make, &[]).ok();
        env.write("one/Dockerfile", "FROM files\nRUN echo x >> /data/7/7\n");
        let calls = "getdents64,newfstatat,statx,openat,openat2,lstat,stat";
        let context = env.path("one");
        let Some(trace) = env.trace(calls, &["build", "-q", "-t", "one", context.to_str().unwrap()]) else {
            return;
        };
        let calls = trace.lines().count();
        assert!(
            calls < 3000,
            "{calls} calls for a RUN that touches one of 50,000 files"
        );
    });
}
