# shellcheck shell=bash disable=SC2034  # the experiments read the variables that are set here
# Sourced by the run.sh of the WMT experiments, after translation_rows.sh: arguments, downloads with
# checks, unpacking. From the environment: T2R_ARCHIVES, a folder for the downloaded archives that
# several experiments may share (not set: OUT/archives). A machine without network: put the archives
# there by hand, they are checked all the same.

# wmt_arguments "$@": sets scale (full or tiny), out, and with tiny the folder of the small texts.
wmt_arguments() {
  scale=full folder="" out=""
  local words=()
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --scale)
        scale=${2:-}
        [[ $scale =~ ^(full|tiny)$ ]] || fail "--scale is '$scale': full or tiny" 2
        shift
        ;;
      -*) fail "unknown option $1: -h explains the arguments" 2 ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  if [ "$scale" = tiny ]; then
    [ ${#words[@]} -ge 1 ] || fail "--scale tiny needs the folder of the small texts (-h)" 2
    [ -d "${words[0]}" ] || fail "${words[0]} is not a folder" 2
    folder=$(cd "${words[0]}" && pwd)
    words=("${words[@]:1}")
  fi
  [ ${#words[@]} -le 1 ] || fail "unknown argument ${words[1]}: -h explains the arguments" 2
  [ "$scale" = tiny ] || [ ${#words[@]} = 1 ] || fail "give a folder for the results (-h)" 2
  out=${words[0]:-$(basename "$(dirname "$0")")-tiny}
}

# start_rows, and the names of the files that every recipe makes.
wmt_start() {
  [ -z "${T2R_ARCHIVES:-}" ] || T2R_ARCHIVES=$(realpath -m "$T2R_ARCHIVES")
  start_rows "$out" "${RESULTS:-}"
  data=data test_source=test.source test_target=test.target
}

sha256_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# wmt_check FILE NAME BYTES SHA256: ends the script where the file is another one. Where no checksum
# is known (-), the first download's is kept beside the archive, and later ones are held against it.
wmt_check() {
  local file=$1 name=$2 bytes=$3 known=$4 size sum record
  record=${T2R_ARCHIVES:-archives}/$name.sha256
  size=$(stat -c %s "$file")
  [ "$bytes" = - ] || [ "$size" = "$bytes" ] || fail "$file has $size bytes, expected are $bytes"
  sum=$(sha256_of "$file")
  if [ "$known" = - ]; then
    [ -e "$record" ] || echo "$sum" >"$record"
    known=$(cat "$record")
  fi
  [ "$sum" = "$known" ] ||
    fail "$file has the sha256 $sum, expected is $known: remove it and repeat"
}

# wmt_fetch URL BYTES SHA256 [MEMBER...]: the archive, checked, its members unpacked into raw/.
wmt_fetch() {
  local url=$1 bytes=$2 sum=$3 name=${1##*/} store=${T2R_ARCHIVES:-archives} part
  shift 3
  if [ -e "raw/$name.done" ]; then return; fi
  mkdir -p "$store" raw
  part=$store/$name.part
  if [ ! -e "$store/$name" ]; then
    echo "fetching $url" >&2
    [ "$(stat -c %s "$part" 2>/dev/null)" = "$bytes" ] ||
      stoppable curl --fail --location --retry 5 --continue-at - --output "$part" "$url" ||
      fail "$url cannot be had; an archive in $(realpath "$store") is taken instead"
    wmt_check "$part" "$name" "$bytes" "$sum"
    mv "$part" "$store/$name"
  else
    wmt_check "$store/$name" "$name" "$bytes" "$sum"
  fi
  case $name in
    *.zip) stoppable python3 -m zipfile -e "$store/$name" raw ;;
    *) stoppable tar -xf "$store/$name" -C raw "$@" ;;
  esac
  touch "raw/$name.done"
}

# wmt_sgm FROM TO: the segments of an .sgm file, one a line.
wmt_sgm() {
  if [ -e "$2" ]; then return; fi
  python3 - "$1" >"$2.part" <<'PYTHON'
import html, re, sys
sys.stdout.reconfigure(encoding="utf-8", newline="\n")
text = open(sys.argv[1], encoding="utf-8").read()
for segment in re.findall(r"<seg\b[^>]*>(.*?)</seg>", text, re.DOTALL | re.IGNORECASE):
    print(" ".join(html.unescape(segment).split()))
PYTHON
  mv "$2.part" "$2"
}
