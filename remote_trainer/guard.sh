#!/bin/sh
# Gives the machine back when its lease has lapsed: the one actor from inside (docs/adr/0010). POSIX sh, no bashism:
# dash and busybox ash run it too. What it decides is `guard_action` in lease.py, and one table tests both.
#
# Its settings are assigned in front of it by orchestrator/boot_script.py:
#   CLOUDBOOTH_GUARD_STATE      folder on the volume: `on-lapse`, `log`, what is kept for another
#                               container, and `memory`, which names the folder below
#   CLOUDBOOTH_GUARD_FIRST_S    seconds from its start until which the machine may run without anybody's renewal
#   CLOUDBOOTH_GUARD_LEASE_S    seconds that a renewal is good for: for those who renew, in `lease-for`
#   CLOUDBOOTH_GUARD_POLL_S     seconds between two looks
#   CLOUDBOOTH_GUARD_RETRY_S    first pause after a call that was not answered well; it doubles up to five minutes
#   CLOUDBOOTH_GUARD_TERMINATE  calls: "METHOD URL", header lines, an empty line, the body. ${NAME} in them is a
#   CLOUDBOOTH_GUARD_STOP       variable of this machine, or of its process 1, filled in when the call is made.
#   CLOUDBOOTH_GUARD_PROBE      STOP may be empty: this machine cannot be stopped.
#   CLOUDBOOTH_GUARD_AGAIN      not empty: lease, limit and proof of this boot stay (a guard that died)
# `lease`, `limit`, `proof`, `beat` and `can-stop` lie in the folder that this script lies in, which is memory.
#
# The machine's key passes through builtins and pipes only: never through arguments, never into the log.

umask 077
trap '' HUP INT
state=$CLOUDBOOTH_GUARD_STATE
memory=${0%/*}
open='${' close='}'

clock() {
  read -r now _ </proc/uptime
  now=${now%%.*}
}

# Sets `n` to the whole number in a file; fails, leaving a line of junk aside, when it holds anything else.
number() {
  n=
  { read -r n <"$1"; } 2>/dev/null
  n=${n%%.*}
  case $n in '' | 0?* | *[!0-9]* | ???????????*) return 1 ;; esac
}

put() {
  { echo "$2" >"$memory/$1.new" && mv -f "$memory/$1.new" "$memory/$1"; } 2>/dev/null
}

log() {
  { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $*" >>"$state/log"; } 2>/dev/null
}

variable() {
  case $1 in '' | [0-9]* | *[!A-Za-z0-9_]*) return ;; esac
  for process in $$ 1; do
    value=$(tr '\0' '\n' 2>/dev/null </proc/$process/environ | sed -n "/^$1=/{s///p;q;}" | tr -d '\r')
    [ -z "$value" ] || break
  done
  printf %s "$value"
}

fill() {
  rest=$1 filled=
  while :; do
    case $rest in *"$open"*"$close"*) ;; *) break ;; esac
    filled=$filled${rest%%"$open"*}
    rest=${rest#*"$open"}
    filled=$filled$(variable "${rest%%"$close"*}")
    rest=${rest#*"$close"}
  done
  printf '%s\n' "$filled$rest"
}

curl_config() {
  sed 's/[\\"]/\\&/g' | {
    read -r method url
    printf 'request = "%s"\nurl = "%s"\n' "$method" "$url"
    while read -r line && [ "$line" ]; do printf 'header = "%s"\n' "$line"; done
    body=$(tr -d '\n')
    [ -z "$body" ] || printf 'data-raw = "%s"\n' "$body"
  }
}

by_python='
import sys, urllib.error, urllib.request as r
head, _, body = sys.stdin.read().partition("\n\n")
first, *head = head.strip().split("\n")
method, url = first.split(" ", 1)
headers = dict(line.split(": ", 1) for line in head)
try:
    print(r.urlopen(r.Request(url, body.strip().encode() or None, headers, method=method), timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
except Exception:
    print("000")
'

# Sets `code` to the status of the answer, 000 when there was none.
call() {
  if command -v curl >/dev/null; then
    code=$(fill "$1" | curl_config | curl -q -g -s -K - -m 30 -o /dev/null -w '%{http_code}')
  else
    code=$(fill "$1" | python3 -c "$by_python" 2>/dev/null)
  fi
}

probe() {
  [ "$probes" -gt 0 ] && [ "$now" -ge "$probe_at" ] || return
  call "$CLOUDBOOTH_GUARD_PROBE"
  code=${code:-000}
  put proof "$code"
  log "probe: $code"
  probes=$((probes - 1)) probe_at=$((now + 15))
  case $code in 2??) probes=0 ;; esac
}

decide() {
  # A volume that cannot be read now has not forgotten what it holds: the last word counts.
  word=
  { read -r word <"$state/on-lapse"; } 2>/dev/null
  [ "$word" ] && known=$word
  word=$known
  if [ "$now" -lt "$lease" ]; then
    action=wait
  elif [ "$word" = terminate ]; then
    action=terminate
  elif [ "$CLOUDBOOTH_GUARD_STOP" ]; then
    action=stop
  elif [ "$now" -ge "${limit:-${end:-$((lease + 86400))}}" ]; then
    action=terminate
  else
    action=wait
  fi
}

# A call that was answered well is made again only if the machine still runs ten minutes later.
act() {
  [ "$action" = "$before" ] || { pause=$CLOUDBOOTH_GUARD_RETRY_S next=$now before=$action; }
  [ "$action" != wait ] && [ "$now" -ge "$next" ] || return
  case $action in stop) call "$CLOUDBOOTH_GUARD_STOP" ;; *) call "$CLOUDBOOTH_GUARD_TERMINATE" ;; esac
  log "the lease has lapsed; $action: ${code:-000}"
  case $code in
    2?? | 404 | 410) next=$((now + 600)) ;;
    *)
      next=$((now + pause)) pause=$((pause * 2))
      [ "$pause" -le 300 ] || pause=300
      ;;
  esac
}

# A container that its provider starts again forgets its lease, on a host that has gone on: what was left of the limit, or
# before there is one of the first lease, is left of it still. But for the five minutes that a rescue needs to log in, and
# every fourth time in a row that nobody renews they are not: one that crashes as soon as it has begun is started for ever.
shorten_first() {
  boot= was=
  { read -r boot </proc/sys/kernel/random/boot_id; read -r was <"$state/boot"; } 2>/dev/null
  # Of this machine, by its address without a query: on a network volume lies what another one of the same host left.
  boot=${boot:+$boot $(fill "${CLOUDBOOTH_GUARD_TERMINATE%%[?
]*}")}
  if [ "$boot" ] && [ "$boot" = "$was" ] && number "$state/limit-at"; then
    left=$((n - now))
    if [ "$left" -lt 300 ]; then
      number "$state/graces" || n=3
      left=$((n ? 300 : 0))
      { echo $((n ? n - 1 : 3)) >"$state/graces"; } 2>/dev/null
    fi
    [ "$left" -ge "$first" ] || first=$left
  else
    { echo $((now + first)) >"$state/limit-at"; } 2>/dev/null
  fi
  { echo "$boot" >"$state/boot"; } 2>/dev/null
}

mkdir -p "$state" 2>/dev/null
# One guard at a time: the first that lives, and of two that begin at once the one that `pid` names in the end.
number "$memory/pid" && [ "$n" -ne $$ ] && tr '\0' '\n' 2>/dev/null <"/proc/$n/cmdline" | grep -qxF "$0" && exit 0
put pid $$
# Only a volume that takes this word has certainly none yet; anything unclear protects the disk.
known=stop
{ [ -e "$state/on-lapse" ] || { echo terminate >"$state/on-lapse" && known=terminate; }; } 2>/dev/null
clock
limit= end= before=wait probes=8 probe_at=0 first=$CLOUDBOOTH_GUARD_FIRST_S
if [ "${CLOUDBOOTH_GUARD_AGAIN-}" ]; then
  number "$memory/proof" && case $n in 2??) probes=0 ;; esac
else
  rm -f "$memory/lease" "$memory/limit" "$memory/proof" "$memory/beat"
  # What the supervisor of an earlier boot had left of its limit: for a machine that cannot be stopped.
  number "$state/limit-left" && end=$((now + n))
  shorten_first
fi
number "$memory/lease" || put lease $((now + first))
lease=$((now + first))
put lease-for "$CLOUDBOOTH_GUARD_LEASE_S"
put can-stop "${CLOUDBOOTH_GUARD_STOP:+yes}"
{ echo "$memory" >"$state/memory"; } 2>/dev/null
log "began"

while :; do
  clock
  number "$memory/lease" && lease=$n
  number "$memory/limit" && limit=$n && [ "$lease" -gt "$limit" ] && lease=$limit
  decide
  act
  put beat "$now"
  probe
  sleep "$CLOUDBOOTH_GUARD_POLL_S"
  number "$memory/pid" && [ "$n" -ne $$ ] && exit 0
done
