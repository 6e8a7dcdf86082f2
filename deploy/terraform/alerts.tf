# The alerts of monitoring/setup_monitoring.py, which recognises them by their labels and finds nothing to change.

resource "google_monitoring_notification_channel" "email" {
  count        = var.email == "" ? 0 : 1
  type         = "email"
  display_name = var.email
  labels = {
    email_address = var.email
  }
}

resource "google_monitoring_alert_policy" "alerts" {
  for_each              = { for alert in var.alerts : alert.signal => alert }
  display_name          = each.value.display_name
  combiner              = "OR"
  notification_channels = google_monitoring_notification_channel.email[*].name

  user_labels = {
    product = "himari-rl"
    signal  = each.key
  }

  documentation {
    content   = each.value.cure
    mime_type = "text/markdown"
  }

  conditions {
    display_name = each.value.title
    condition_prometheus_query_language {
      query               = each.value.query
      duration            = each.value.duration
      evaluation_interval = "60s"
    }
  }
}

resource "google_billing_budget" "all" {
  count           = var.billing_account == "" ? 0 : 1
  billing_account = var.billing_account
  display_name    = "himari_rl"

  budget_filter {
    projects               = ["projects/${var.project}"]
    credit_types_treatment = "EXCLUDE_ALL_CREDITS"
  }

  amount {
    specified_amount {
      currency_code = "USD"
      units         = tostring(floor(var.budget_usd))
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  all_updates_rule {
    monitoring_notification_channels = google_monitoring_notification_channel.email[*].id
    disable_default_iam_recipients   = false
  }
}
