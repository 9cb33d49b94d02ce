#!/usr/bin/env bash
# A SLURM of its own on this machine, to try the scripts of this folder on a laptop or in CI.
#
#   sudo slurm/local-cluster.sh install           # SLURM and munge from Debian's packages
#   eval "$(sudo slurm/local-cluster.sh start)"   # NODES=2: two emulated nodes on this machine
#   sudo slurm/local-cluster.sh status
#   sudo slurm/local-cluster.sh stop              # ends its jobs and leaves nothing behind
#
# Everything it writes is in one folder (EMBEDLLM_SLURM_DIR). It needs neither systemd nor cgroups,
# and refuses to start beside a SLURM that is not its own. NODES, CPUS (of each node) and PORT (the
# first of NODES + 1) can be set.
set -euo pipefail

FOLDER=${EMBEDLLM_SLURM_DIR:-/tmp/embedllm-slurm}
NODES=${NODES:-1}
CPUS=${CPUS:-$(nproc)}
PORT=${PORT:-16817}
CONF=$FOLDER/slurm.conf

say() { echo "local-cluster: $*" >&2; }
fail() { say "$*"; exit 1; }

# Debian keeps the daemons where only root looks for programs.
PATH=$PATH:/usr/sbin:/sbin

is_installed() {
    local program
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || return 1
    done
}

is_running() { # CONF
    # Without its file scontrol would look for a controller in the network.
    [ -e "$1" ] && SLURM_CONF=$1 timeout 10 scontrol ping 2>/dev/null | grep -q 'is UP'
}

install_packages() {
    if is_installed; then
        say "SLURM is installed"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "install needs root"
    command -v apt-get >/dev/null || fail "install needs apt-get (Debian, Ubuntu)"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends slurm-wlm munge; } >&2
}

write_conf() {
    local host memory node
    host=$(hostname -s)
    # What the kernel has is a little less than what is built in; slurmd refuses more than it finds.
    memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"$CONF" <<EOF
ClusterName=embedllm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A short life of credentials lets a requeued job start again after half a minute.
AuthInfo=socket=$FOLDER/munge/socket,cred_expire=15
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
# The hosts of a laptop's nodes are all the laptop.
CommunicationParameters=NoAddrCache
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
StateSaveLocation=$FOLDER/state
SlurmdPidFile=$FOLDER/slurmd.%n.pid
SlurmdLogFile=$FOLDER/slurmd.%n.log
SlurmdSpoolDir=$FOLDER/spool.%n
EOF
    for ((node = 1; node <= NODES; node++)); do
        echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + node))" \
            "CPUs=$CPUS RealMemory=$memory State=UNKNOWN" >>"$CONF"
    done
    echo "PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$CONF"
}

start_munge() {
    mkdir -p "$FOLDER/munge"
    chmod 755 "$FOLDER" "$FOLDER/munge"
    (umask 077 && head -c 128 /dev/urandom >"$FOLDER/munge/key")
    munged --key-file="$FOLDER/munge/key" --socket="$FOLDER/munge/socket" \
        --pid-file="$FOLDER/munge/pid" --log-file="$FOLDER/munge/log" \
        --seed-file="$FOLDER/munge/seed" >&2
}

start() {
    is_installed || fail "SLURM is not installed; slurm/local-cluster.sh install"
    if is_running "$CONF"; then
        say "runs already in $FOLDER"
    else
        local other=${SLURM_CONF:-/etc/slurm/slurm.conf}
        if [ "$other" != "$CONF" ] && [ -e "$other" ] && is_running "$other"; then
            fail "a SLURM answers already ($other); this one would be in its way"
        fi
        [ "$(id -u)" = 0 ] || fail "start needs root"
        stop
        mkdir -p "$FOLDER/state"
        write_conf
        start_munge
        export SLURM_CONF=$CONF
        slurmctld >&2
        local node
        for ((node = 1; node <= NODES; node++)); do
            mkdir -p "$FOLDER/spool.node$node"
            slurmd -N "node$node" >&2
        done
        wait_until_idle
        say "runs in $FOLDER with $NODES node(s) of $CPUS CPU(s)"
    fi
    echo "export SLURM_CONF=$CONF"
}

wait_until_idle() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if [ "$(sinfo --noheader --Node --format=%T 2>/dev/null | grep -c '^idle$')" = "$NODES" ]; then
            return
        fi
        sleep 0.1
    done
    sinfo --Node --long >&2 || true
    tail -n 5 "$FOLDER"/*.log >&2 || true
    stop
    fail "the nodes did not come up"
}

stop() {
    [ -d "$FOLDER" ] || return 0
    [ -e "$CONF" ] || [ -z "$(ls -A "$FOLDER")" ] || fail "$FOLDER is not a cluster of this script"
    if is_running "$CONF"; then
        SLURM_CONF=$CONF squeue --noheader --format=%A | SLURM_CONF=$CONF xargs --no-run-if-empty scancel
        local tries
        for ((tries = 0; tries < 200; tries++)); do
            [ -n "$(SLURM_CONF=$CONF squeue --noheader)" ] || break
            sleep 0.1
        done
    fi
    local file
    for file in "$FOLDER"/slurmd.*.pid "$FOLDER/slurmctld.pid" "$FOLDER/munge/pid"; do
        [ -e "$file" ] && end_process "$(cat "$file")"
    done
    rm -rf "$FOLDER"
}

end_process() { # PID
    local tries
    kill "$1" 2>/dev/null || return 0
    for ((tries = 0; tries < 100; tries++)); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

status() {
    is_running "$CONF" || fail "does not run"
    say "runs in $FOLDER"
    SLURM_CONF=$CONF sinfo
    SLURM_CONF=$CONF squeue
}

case ${1:-} in
    install) install_packages ;;
    start) start ;;
    stop) stop ;;
    status) status ;;
    *) fail "usage: $0 install | start | stop | status" ;;
esac
