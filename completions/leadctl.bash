# leadctl: completion for bash. Made by: python -m leadctl.cli.reference --write
_leadctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at="" words="" head="" word i
    local channels="amocrm bitrix24 email getresponse lptracker sendpulse telegram unisender uontravel webhooks"
    # bash splits --option=value into three words
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            --before|--channel|--chunk|--concurrency|--config|--credential|--credentials-file|--database-url|--delay|--entity|--every|--finish-by|--health-file|--heartbeat|--ids-file|--log-file|--log-format|--max-age|--path|--port|--priority|--project|--queue|--reason|--results-dir|--scale|--settings-file|--share|--since|--skip-channel|--until|--wait|-c)
                [[ ${COMP_WORDS[i+1]} == "=" ]] && ((i++))
                ((i++)) ;;
            -*) ;;
            *)
                case "${at:+$at }$word" in
                    "resend"|"bulk-resend"|"plan"|"watch"|"worker"|"history"|"settle"|"adopt"|"init"|"doctor"|"sandbox"|"demo"|"channels"|"channels list"|"channels check"|"channels schema"|"runs"|"runs list"|"runs show"|"runs resume"|"runs purge"|"queue"|"queue init"|"queue list"|"queue show"|"queue cancel"|"queue retry"|"queue sync"|"queue prune"|"queue metrics") at="${at:+$at }$word" ;;
                esac ;;
        esac
    done
    COMPREPLY=()
    case $prev in
        --channel|--skip-channel|-c)
            [[ $cur == *,* ]] && head="${cur%,*},"
            COMPREPLY=($(compgen -P "$head" -W "$channels" -- "${cur##*,}"))
            return ;;
        --config|--credentials-file|--health-file|--ids-file|--log-file|--path|--results-dir|--settings-file)
            local IFS=$'\n'
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -f -- "$cur"))
            return ;;
        --log-format)
            COMPREPLY=($(compgen -W "console json" -- "$cur"))
            return ;;
        --before|--chunk|--concurrency|--credential|--database-url|--delay|--entity|--every|--finish-by|--heartbeat|--max-age|--port|--priority|--project|--queue|--reason|--scale|--share|--since|--until|--wait)
            return ;;
    esac
    case $at in
        "") [[ $cur == -* ]] && words="--version --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="resend bulk-resend plan watch worker history settle adopt init doctor sandbox demo channels runs queue" ;;
        "resend") [[ $cur == -* ]] && words="-c --channel --skip-channel --credential --credentials-file --settings-file --delay --dry-run --force --reason --retry-unknown --wait --queue --priority --chunk --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "bulk-resend") [[ $cur == -* ]] && words="--ids-file --skip-bad-lines --project --entity --since --until --max-age --missing --first-run -c --channel --skip-channel --credential --credentials-file --settings-file --delay --dry-run --force --reason --retry-unknown --wait --queue --priority --chunk --yes --fail-on-empty --results-dir --share --finish-by --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "plan") [[ $cur == -* ]] && words="--ids-file --skip-bad-lines --project --entity --since --until --max-age --missing --first-run -c --channel --skip-channel --credential --credentials-file --settings-file --json --jsonl --detailed-exitcode --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "watch") [[ $cur == -* ]] && words="-c --channel --skip-channel --credential --credentials-file --settings-file --queue --priority --chunk --project --entity --every --since --once --yes --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "worker") [[ $cur == -* ]] && words="--queue --concurrency --once --health-file --heartbeat --dev --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "history") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "settle") [[ $cur == -* ]] && words="--ids-file --skip-bad-lines --credential --delivered --not-delivered --reason --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "adopt") [[ $cur == -* ]] && words="--ids-file --skip-bad-lines --project --entity --since --until --max-age -c --channel --skip-channel --credential --credentials-file --settings-file --delivered --undo --reason --dry-run --yes --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "init") [[ $cur == -* ]] && words="--path --database-url --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "doctor") [[ $cur == -* ]] && words="--ledger-restored --no-ledger-restored --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "sandbox") [[ $cur == -* ]] && words="--port --scale --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "demo") [[ $cur == -* ]] && words="--config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "channels") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="list check schema" ;;
        "channels list") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "channels check") [[ $cur == -* ]] && words="--credential --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="$channels" ;;
        "channels schema") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="$channels" ;;
        "runs") [[ $cur == -* ]] && words="--unfinished --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="list show resume purge" ;;
        "runs list") [[ $cur == -* ]] && words="--unfinished --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "runs show") [[ $cur == -* ]] && words="--watch --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "runs resume") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "runs purge") [[ $cur == -* ]] && words="--before --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="init list show cancel retry sync prune metrics" ;;
        "queue init") [[ $cur == -* ]] && words="--config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue list") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue show") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue cancel") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue retry") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue sync") [[ $cur == -* ]] && words="--json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue prune") [[ $cur == -* ]] && words="--before --json --config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
        "queue metrics") [[ $cur == -* ]] && words="--config -q --quiet -v --verbose --no-color --log-format --log-file --log-personal-data -h --help" || words="" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _leadctl leadctl
